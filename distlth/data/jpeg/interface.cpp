// The C interface. Functions return 0, or a number that says what failed.
#include <algorithm>
#include <exception>

#include "planes.h"
#include "resample.h"
#include "turbo.h"

using namespace distlth::jpeg;

namespace {

enum Result { DONE, DAMAGED, NO_MEMORY, NOT_HERE };

constexpr int MAX_SIDE = 65535;

// What a thread needs; it grows to the largest image that the thread has seen.
struct Workspace {
    Turbo turbo;
    Resampler resampler;
};

thread_local Workspace workspace;

bool is_inside(const Crop& crop, int height, int width) {
    return crop.top >= 0 && crop.left >= 0 && crop.height > 0 && crop.width > 0 && height <= MAX_SIDE &&
           width <= MAX_SIDE && crop.top <= height - crop.height && crop.left <= width - crop.width;
}

Result decode(const uint8_t* data, size_t bytes, Planes& planes) {
    return workspace.turbo.decode(data, bytes, planes) == Status::decoded ? DONE : DAMAGED;
}

template <class F>
int guarded(F f) {
    try {
        return f();
    } catch (const std::exception&) {
        return NO_MEMORY;
    }
}

}  // namespace

extern "C" {

// Has other JPEGs read by the libturbojpeg that this library is linked to; call it before any other function.
int distlth_jpeg_load_turbo(const char* library) { return load_turbo(library) ? DONE : NOT_HERE; }

// Writes resolution x resolution x 3 bytes: a crop of an image, resized by area, mirrored or not, as RGB.
int distlth_jpeg_crop(const uint8_t* data, int64_t bytes, int height, int width, int top, int left,
                      int crop_height, int crop_width, int is_mirrored, int resolution, uint8_t* rgb) {
    return guarded([&] {
        const Crop crop{top, left, crop_height, crop_width};
        if (!is_inside(crop, height, width) || resolution < 1 || resolution > MAX_SIDE) return DAMAGED;
        Planes planes;
        const Result result = decode(data, size_t(bytes), planes);
        if (result != DONE) return result;
        if (planes.image_height != height || planes.image_width != width) return DAMAGED;
        workspace.resampler.resample(planes, crop, is_mirrored != 0, resolution, *kernels(), rgb);
        return DONE;
    });
}

}  // extern "C"
