// Any JPEG that libturbojpeg reads, by the copy of it that FFCV's library is linked to.
#pragma once

#include "buffer.h"
#include "planes.h"

namespace distlth::jpeg {

// Finds libturbojpeg's functions behind a library that is linked to it, once a process; false: it has none.
bool load_turbo(const char* library);

// A decompressor and its memory, for one thread.
class Turbo {
public:
    Turbo() = default;
    Turbo(const Turbo&) = delete;
    Turbo& operator=(const Turbo&) = delete;
    ~Turbo();

    // Decodes the whole image; a warning of libjpeg, and another size than it must have, count as damage.
    // `other_kind`: load_turbo found nothing. Throws std::bad_alloc.
    Status decode(const uint8_t* data, size_t bytes, int height, int width, Planes& planes);

private:
    struct Head {
        int width, height, subsampling, colours;
    };

    bool decode_planes(const uint8_t* data, size_t bytes, const Head& head, Planes& planes);
    bool decode_rgb(const uint8_t* data, size_t bytes, const Head& head, Planes& planes);
    void take(Planes& planes, int plane, int height, int width);

    void* decompressor_ = nullptr;
    Buffer<uint8_t> planes_[3], rgb_;
};

}  // namespace distlth::jpeg
