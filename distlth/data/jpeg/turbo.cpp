#include "turbo.h"

#include <dlfcn.h>

#include "kernels.h"

namespace distlth::jpeg {

namespace {

// Of turbojpeg.h, whose interface libjpeg-turbo keeps: it is found when the program runs, not when it is built.
enum { SAMP_444, SAMP_422, SAMP_420, SAMP_GRAY, SAMP_440, SAMP_411 };
enum { COLOURS_RGB, COLOURS_YCC, COLOURS_GREY };
constexpr int PIXELS_RGB = 0, ACCURATE_DCT = 4096;

struct Functions {
    void* (*create)();
    int (*destroy)(void*);
    int (*head)(void*, const uint8_t*, unsigned long, int*, int*, int*, int*);
    int (*planes)(void*, const uint8_t*, unsigned long, uint8_t**, int, int*, int, int);
    int (*pixels)(void*, const uint8_t*, unsigned long, uint8_t*, int, int, int, int, int);
};

template <class F>
bool find(void* library, const char* name, F& function) {
    function = reinterpret_cast<F>(dlsym(library, name));
    return function != nullptr;
}

Functions functions{};
bool is_loaded = false;

// Luma samples for each chroma sample.
struct Steps {
    int horizontal, vertical;
};

bool steps(int subsampling, Steps& found) {
    switch (subsampling) {
        case SAMP_GRAY:
        case SAMP_444: found = {1, 1}; return true;
        case SAMP_422: found = {2, 1}; return true;
        case SAMP_420: found = {2, 2}; return true;
        case SAMP_440: found = {1, 2}; return true;
        case SAMP_411: found = {4, 1}; return true;
    }
    return false;
}

}  // namespace

bool load_turbo(const char* library) {
    void* opened = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    is_loaded = opened && find(opened, "tjInitDecompress", functions.create) &&
                find(opened, "tjDestroy", functions.destroy) &&
                find(opened, "tjDecompressHeader3", functions.head) &&
                find(opened, "tjDecompressToYUVPlanes", functions.planes) &&
                find(opened, "tjDecompress2", functions.pixels);
    return is_loaded;
}

Turbo::~Turbo() {
    if (decompressor_) functions.destroy(decompressor_);
}

Status Turbo::decode(const uint8_t* data, size_t bytes, int height, int width, Planes& planes) {
    if (!is_loaded) return Status::other_kind;
    if (!decompressor_ && !(decompressor_ = functions.create())) return Status::damaged;
    Head head{};
    if (functions.head(decompressor_, data, bytes, &head.width, &head.height, &head.subsampling, &head.colours))
        return Status::damaged;
    if (head.height != height || head.width != width) return Status::damaged;
    Steps found{1, 1};
    const bool is_planar = (head.colours == COLOURS_YCC && steps(head.subsampling, found)) ||
                           head.colours == COLOURS_GREY;
    planes = {};
    planes.image_height = head.height, planes.image_width = head.width;
    planes.horizontal = found.horizontal, planes.vertical = found.vertical;
    planes.is_grey = head.colours == COLOURS_GREY;
    planes.is_rgb = !is_planar;
    const bool is_decoded =
        is_planar ? decode_planes(data, bytes, head, planes) : decode_rgb(data, bytes, head, planes);
    return is_decoded ? Status::decoded : Status::damaged;
}

// Memory for a plane of the size that libturbojpeg writes, with room to read beyond its end.
void Turbo::take(Planes& planes, int plane, int height, int width) {
    planes.stride[plane] = width + SLACK;
    planes.plane[plane] = planes_[plane].take(size_t(height + 8) * size_t(planes.stride[plane]) + SLACK);
}

bool Turbo::decode_planes(const uint8_t* data, size_t bytes, const Head& head, Planes& planes) {
    uint8_t* to[3]{};
    int strides[3]{};
    for (int c = 0; c < (planes.is_grey ? 1 : 3); ++c) {
        const int across = c ? planes.horizontal : 1, down = c ? planes.vertical : 1;
        // Luma is as wide and high as its chroma stands for.
        const int columns = (head.width + planes.horizontal - 1) / planes.horizontal;
        const int rows = (head.height + planes.vertical - 1) / planes.vertical;
        take(planes, c, rows * planes.vertical / down, columns * planes.horizontal / across);
        to[c] = planes_[c].get();
        strides[c] = int(planes.stride[c]);
    }
    return !functions.planes(decompressor_, data, bytes, to, head.width, strides, head.height, ACCURATE_DCT);
}

bool Turbo::decode_rgb(const uint8_t* data, size_t bytes, const Head& head, Planes& planes) {
    const size_t pixels = size_t(head.height) * size_t(head.width);
    uint8_t* rgb = rgb_.take(3 * pixels);
    if (functions.pixels(decompressor_, data, bytes, rgb, head.width, 0, head.height, PIXELS_RGB, ACCURATE_DCT))
        return false;
    for (int c = 0; c < 3; ++c) {
        take(planes, c, head.height, head.width);
        uint8_t* plane = planes_[c].get();
        for (int y = 0; y < head.height; ++y)
            for (int x = 0; x < head.width; ++x)
                plane[y * planes.stride[c] + x] = rgb[3 * (ptrdiff_t(y) * head.width + x) + c];
    }
    return true;
}

}  // namespace distlth::jpeg
