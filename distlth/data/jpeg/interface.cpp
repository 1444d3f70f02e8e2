// The C interface. Functions return 0, or a number that says what failed.
#include <cstring>
#include <exception>
#include <memory>

#include "decode.h"
#include "resample.h"
#include "turbo.h"

using namespace distlth::jpeg;

namespace {

enum Result { DONE, DAMAGED, NO_MEMORY, NOT_HERE, DIFFERENT };

constexpr int MAX_SIDE = 65535;

// What a thread needs; it grows to the largest image that the thread has seen.
struct Workspace {
    Baseline baseline;
    Turbo turbo;
    Resampler resampler;
};

Workspace& workspace() {
    thread_local const auto own = std::make_unique<Workspace>();
    return *own;
}

bool is_inside(const Crop& crop, int height, int width) {
    return crop.top >= 0 && crop.left >= 0 && crop.height > 0 && crop.width > 0 && height <= MAX_SIDE &&
           width <= MAX_SIDE && crop.top <= height - crop.height && crop.left <= width - crop.width;
}

struct Image {
    const uint8_t* data;
    size_t bytes;
    int height, width;
};

Status decode_turbo(const Image& image, Planes& planes) {
    return workspace().turbo.decode(image.data, image.bytes, image.height, image.width, planes);
}

Status decode_baseline(Baseline& baseline, const Image& image, const Crop& crop, Planes& planes) {
    return baseline.decode(image.data, image.bytes, image.height, image.width, crop, planes);
}

// What our decoder takes for damage goes to libjpeg too: its word on what can be read is the last.
Status decode(const Image& image, const Crop& crop, Planes& planes) {
    const Status status = decode_baseline(workspace().baseline, image, crop, planes);
    return status == Status::decoded ? status : decode_turbo(image, planes);
}

// As `decode`, by one of the decoders alone.
Status decode_by(const char* decoder, const Image& image, const Crop& crop, Planes& planes) {
    if (!std::strcmp(decoder, "turbo")) return decode_turbo(image, planes);
    if (!std::strcmp(decoder, "baseline")) return decode_baseline(workspace().baseline, image, crop, planes);
    thread_local Baseline portable(Instructions::portable);
    return decode_baseline(portable, image, crop, planes);
}

bool are_same(const uint8_t* one, ptrdiff_t one_stride, const uint8_t* other, ptrdiff_t other_stride, int height,
              int width) {
    for (int row = 0; row < height; ++row)
        if (std::memcmp(one + row * one_stride, other + row * other_stride, size_t(width))) return false;
    return true;
}

// Whether two decoders have left the same samples of a whole image.
bool are_same(const Planes& one, const Planes& other) {
    if (one.is_grey != other.is_grey || one.is_rgb != other.is_rgb) return false;
    if (!one.is_grey && (one.horizontal != other.horizontal || one.vertical != other.vertical)) return false;
    for (int plane = 0; plane < (one.is_grey ? 1 : 3); ++plane) {
        const int down = plane ? one.vertical : 1, right = plane ? one.horizontal : 1;
        const int height = (one.image_height + down - 1) / down, width = (one.image_width + right - 1) / right;
        if (!are_same(one.plane[plane], one.stride[plane], other.plane[plane], other.stride[plane], height, width))
            return false;
    }
    return true;
}

int compare_decoders(const Image& image) {
    const Crop whole{0, 0, image.height, image.width};
    if (!is_inside(whole, image.height, image.width)) return DAMAGED;
    Planes expected{}, found{};
    if (decode_turbo(image, expected) != Status::decoded) return DAMAGED;
    if (decode_baseline(workspace().baseline, image, whole, found) != Status::decoded) return DIFFERENT;
    return are_same(expected, found) ? DONE : DIFFERENT;
}

template <class Decode>
int make_crop(const Image& image, const Crop& crop, bool is_mirrored, int resolution, const Kernels* kernels,
              uint8_t* rgb, Decode decode) {
    if (!kernels) return NOT_HERE;
    if (!is_inside(crop, image.height, image.width) || resolution < 1 || resolution > MAX_SIDE) return DAMAGED;
    try {
        Planes planes{};
        if (decode(planes) != Status::decoded) return DAMAGED;
        workspace().resampler.resample(planes, crop, is_mirrored, resolution, *kernels, rgb);
        return DONE;
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
    const Image image{data, size_t(bytes), height, width};
    const Crop crop{top, left, crop_height, crop_width};
    return make_crop(image, crop, is_mirrored != 0, resolution, kernels(), rgb,
                     [&](Planes& planes) { return decode(image, crop, planes); });
}

// The same by one decoder ("baseline", "portable" or "turbo") and the kernels of one instruction set ("avx2" or
// "portable"), to be compared.
int distlth_jpeg_crop_by(const char* decoder, const char* instructions, const uint8_t* data, int64_t bytes,
                         int height, int width, int top, int left, int crop_height, int crop_width,
                         int is_mirrored, int resolution, uint8_t* rgb) {
    const Image image{data, size_t(bytes), height, width};
    const Crop crop{top, left, crop_height, crop_width};
    return make_crop(image, crop, is_mirrored != 0, resolution, kernels(instructions), rgb,
                     [&](Planes& planes) { return decode_by(decoder, image, crop, planes); });
}

// Decodes a whole JPEG of a common kind by our decoder and by libturbojpeg, and compares all samples.
int distlth_jpeg_compare(const uint8_t* data, int64_t bytes, int height, int width) {
    try {
        return compare_decoders({data, size_t(bytes), height, width});
    } catch (const std::exception&) {
        return NO_MEMORY;
    }
}

}  // extern "C"
