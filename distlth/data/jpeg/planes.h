// planes.h: the decoded part of a JPEG: what every decoder leaves, and the resampler takes.
#pragma once

#include <cstddef>
#include <cstdint>

namespace distlth::jpeg {

// A crop in pixels of the whole image.
struct Crop {
    int top, left, height, width;
};

// Luma and chroma (Cb, Cr) as libjpeg's ISLOW transform leaves them, without upsampling.
// plane[c] begins at luma pixel (top, left) of the image, divided by (vertical, horizontal) for c > 0; top and left
// are multiples of an MCU. Each row may be read for 64 bytes beyond its last sample, and each plane for 8 rows.
// The true image has image_height x image_width luma samples: beyond its edge (chroma: the rounded-up quotient) nothing counts.
struct Planes {
    const uint8_t* plane[3];
    ptrdiff_t stride[3];
    int top, left;              // of what is decoded, in luma pixels
    int image_height, image_width;
    int horizontal, vertical;   // luma samples for each chroma sample: 1, 2 or (libturbojpeg's 4:1:1) 4
    bool is_grey;               // plane[1] and plane[2] do not count
    bool is_rgb = false;        // the planes are red, green and blue
};

enum class Status { decoded, damaged, other_kind };   // other_kind: valid perhaps, but not what this decoder reads

}  // namespace distlth::jpeg
