// From planes to pixels: a crop, resized by area, its chroma upsampled and converted to RGB, in one pass.
//
// The weights are those of OpenCV's INTER_AREA, composed for chroma with libjpeg's triangle upsampling. Colours are
// converted after resizing: the same as before it but for rounding and for what would have been cut off at 0 and 255.
// All is integer arithmetic, so the pixels are the same on every machine.
#pragma once

#include "buffer.h"
#include "kernels.h"
#include "planes.h"

namespace distlth::jpeg {

// One axis of a crop: its pixels, how many outputs they make, and the way to them.
struct AxisCrop {
    int begin, length, outputs;
    bool by_area;      // otherwise linear, as OpenCV does where either axis grows
    bool is_mirrored;
};

// One axis of a plane: luma pixels for each sample, the first sample that was decoded, and the image's samples.
struct AxisPlane {
    int step, origin, samples;
};

// Makes an Axis, in memory that is reused.
class AxisMaker {
public:
    const Axis& make(const AxisCrop& crop, const AxisPlane& plane);

    // The samples, as [begin, end) from the plane's first on, that have any weight.
    int begin() const { return begin_; }
    int end() const { return end_; }

private:
    template <int STEP>
    void fill(const AxisCrop& crop, const AxisPlane& plane, int taps);
    void place_windows(int padded);

    Axis axis_{};
    int begin_ = 0, end_ = 0;
    Buffer<int32_t> first_, windows_;
    Buffer<int16_t> weights_;
    Buffer<uint64_t> places_;
    Buffer<uint32_t> shares_, sums_;
};

class Resampler {
public:
    // Writes resolution x resolution x 3 bytes. The crop lies in the image, and what it needs in the planes.
    void resample(const Planes& planes, const Crop& crop, bool is_mirrored, int resolution,
                  const Kernels& kernels, uint8_t* rgb);

private:
    struct Direction {
        AxisMaker down, right;
        Axis rows, columns;
    };

    void make_axes(Direction& direction, const Planes& planes, const Crop& crop, bool is_mirrored,
                   int resolution, bool is_chroma);
    void resample_row(const uint8_t* plane, ptrdiff_t stride, const Direction& direction, int row,
                      const Kernels& kernels, uint8_t* out);

    Direction luma_, chroma_;
    Buffer<uint8_t> row_, colours_[3];
};

// The kernels of an instruction set, the fastest for null; null where this machine lacks it.
const Kernels* kernels(const char* instructions = nullptr);

}  // namespace distlth::jpeg
