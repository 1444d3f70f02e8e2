// Decoding what a crop needs of a baseline JPEG.
#pragma once

#include <vector>

#include "scan.h"

namespace distlth::jpeg {

enum class Instructions { best, portable };

// Decodes baseline JPEGs, by tables and buffers that it keeps from image to image. It belongs to one thread.
class Baseline {
 public:
    explicit Baseline(Instructions instructions = Instructions::best);

    // Decode the MCUs of a crop, and of 2 pixels around it where the image has them. `planes` are valid until
    // the next call. The samples are libjpeg-turbo's, to the bit, on any machine: far beyond 0 and 255 those of
    // its vector code, which clips them, not of its plain C, which wraps around 384 beyond.
    //
    // height and width are what the image must have, and the crop lies within them. Throws std::bad_alloc.
    Status decode(const uint8_t* data, size_t bytes, int height, int width, const Crop& crop, Planes& planes);

 private:
    bool build_tables(const Header& header, Scan& scan);
    void lay_out_planes(const Header& header, Scan& scan);
    void find_buffers(Scan& scan);

    bool is_fast_;
    HuffmanTable dc_[TABLES], ac_[TABLES];
    Quantisation quantisation_[COMPONENTS];
    std::vector<Segment> segments_;
    std::vector<uint8_t> buffers_[STREAMS];
    std::vector<uint8_t> planes_[COMPONENTS];
};

}  // namespace distlth::jpeg
