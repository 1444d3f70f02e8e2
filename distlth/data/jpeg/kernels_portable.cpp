// The inner loops for any machine. Their sums are those of the vector forms, to the bit.
#include "kernels.h"

namespace distlth::jpeg {

namespace {

constexpr int CHUNK = 256;  // sums of so many columns stay in the cache, and compilers vectorise the loops over them

// (a * b) / 32768, rounded: what the instruction pmulhrsw gives.
inline int scaled(int a, int b) { return (a * b + (1 << (WEIGHT_BITS - 1))) >> WEIGHT_BITS; }

inline uint8_t byte(int value) { return uint8_t(value < 0 ? 0 : value > 255 ? 255 : value); }

void vertical_chunk(const uint8_t* rows, ptrdiff_t stride, const int16_t* weights, int taps, int width,
                    uint8_t* out) {
    uint16_t sums[CHUNK];
    for (int x = 0; x < width; ++x) sums[x] = 64;
    for (int i = 0; i < taps; ++i, rows += stride) {
        // scaled(rows[x] * 128, weight)
        const uint32_t weight = uint32_t(weights[i]);
        for (int x = 0; x < width; ++x) sums[x] = uint16_t(sums[x] + ((rows[x] * weight + 128) >> 8));
    }
    for (int x = 0; x < width; ++x) out[x] = byte(sums[x] >> 7);
}

void vertical(const uint8_t* rows, ptrdiff_t stride, const int16_t* weights, int taps, int width,
              uint8_t* out) {
    for (int x = 0; x < width; x += CHUNK) {
        const int columns = width - x < CHUNK ? width - x : CHUNK;
        vertical_chunk(rows + x, stride, weights, taps, columns, out + x);
    }
}

void horizontal_few(const Axis& axis, const uint8_t* row, uint8_t* out) {
    const int16_t* weights = axis.weights;
    for (int o = 0; o < axis.outputs; ++o, weights += FEW_TAPS) {
        const uint8_t* samples = row + axis.first[o];
        const int sum = weights[0] * samples[0] + weights[1] * samples[1] + weights[2] * samples[2] +
                        weights[3] * samples[3];
        out[o] = uint8_t((sum + (1 << (WEIGHT_BITS - 1))) >> WEIGHT_BITS);
    }
}

void horizontal(const Axis& axis, const uint8_t* row, uint8_t* out) {
    if (axis.taps == FEW_TAPS) return horizontal_few(axis, row, out);
    for (int o = 0; o < axis.outputs; ++o) {
        const uint8_t* samples = row + axis.first[o];
        const int16_t* weights = axis.weights + ptrdiff_t(o) * axis.taps;
        int sum = 1 << (WEIGHT_BITS - 1);
        for (int i = 0; i < axis.taps; ++i) sum += weights[i] * samples[i];
        out[o] = uint8_t(sum >> WEIGHT_BITS);
    }
}

void colour(const uint8_t* luma, const uint8_t* blue, const uint8_t* red, int count, uint8_t* rgb) {
    for (int x = 0; x < count; ++x, rgb += 3) {
        const int y = (luma[x] << 5) + 16, cb = (blue[x] - 128) * 64, cr = (red[x] - 128) * 64;
        const int green = scaled(cb, GREEN_OF_CB) + scaled(cr, GREEN_OF_CR);
        rgb[0] = byte((y + scaled(cr, RED_OF_CR)) >> 5);
        rgb[1] = byte((y + (green >> 1)) >> 5);
        rgb[2] = byte((y + scaled(cb, BLUE_OF_CB)) >> 5);
    }
}

constexpr Kernels KERNELS{vertical, horizontal, colour};

}  // namespace

const Kernels* portable_kernels() { return &KERNELS; }

}  // namespace distlth::jpeg
