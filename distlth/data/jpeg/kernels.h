// The inner loops of resampling: one file an instruction set has them, all give the same bits.
//
// No header that those files include may define functions which the linker could share between them: it
// would keep one copy, and that may hold instructions which the machine lacks.
#pragma once

#include <cstddef>
#include <cstdint>

namespace distlth::jpeg {

constexpr int WEIGHT_BITS = 15;     // weights are in 1/32768
constexpr int WEIGHT_SUM = 32767;   // of an output: 32768 would not fit a 16-bit weight, and rounds to the same
constexpr int FEW_TAPS = 4;         // taps of an axis: so many, or a multiple of MANY_TAPS
constexpr int MANY_TAPS = 8;
constexpr int MAX_ROWS = 32;        // of `Kernels::vertical`, whose sums are rounded row by row
constexpr int OUTPUTS = 16;         // kernels write so many outputs at once
constexpr int SLACK = 64;           // bytes that may be read and written beyond a row's end

// Of what each output of one axis is the sum: weights[o * taps + i] * sample[first[o] + i] over i < taps.
// There are `outputs` of them, and further ones of weight 0 up to a multiple of OUTPUTS.
struct Axis {
    int outputs;
    int taps;
    const int32_t* first;
    const int16_t* weights;
    // With FEW_TAPS, the samples of outputs 4g .. 4g + 3 are among the 16 from windows[g] on; the four of an output are
    // at the places in every second byte of its word, and the high bit of the other bytes is set.
    const int32_t* windows;
    const uint64_t* places;
};

struct Kernels {
    // out[x] = sum over i < taps of weights[i] * rows[i * stride + x], for x < width; taps <= MAX_ROWS
    void (*vertical)(const uint8_t* rows, ptrdiff_t stride, const int16_t* weights, int taps, int width,
                     uint8_t* out);
    // out[o], for each output of the axis
    void (*horizontal)(const Axis& axis, const uint8_t* row, uint8_t* out);
    // RGB, 3 * count bytes, of luma, Cb and Cr
    void (*colour)(const uint8_t* luma, const uint8_t* blue, const uint8_t* red, int count, uint8_t* rgb);
};

// YCbCr to RGB, in 1/32768: halves, since a factor must be below 1.
constexpr int RED_OF_CR = 22970;     // 1.402 / 2
constexpr int BLUE_OF_CB = 29032;    // 1.772 / 2
constexpr int GREEN_OF_CB = -11277;  // -0.344136
constexpr int GREEN_OF_CR = -23401;  // -0.714136

const Kernels* portable_kernels();
const Kernels* avx2_kernels();  // null where the compiler or the machine has none

}  // namespace distlth::jpeg
