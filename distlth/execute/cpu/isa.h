// What an instruction set offers: one file each compiles the same loops (loops.h) with its own vectors.
//
// No header that those files include may define functions which the linker could share between them: it
// would keep one copy, and that may hold instructions which the machine lacks.
#pragma once
#include <cstdint>

namespace distlth {

constexpr int MAX_ROWS = 14;  // rows of a tile, in any instruction set
constexpr int VECTORS = 2;    // vectors of pixels of a tile
constexpr int FEW = 4;        // pixels for which vectors along the rows are faster

// Columns that read the same place of the kernel's window.
struct Run {
    int32_t count;
    int32_t tap;
};

// One tile of a convolution: rows x pixels, summed over the columns of a block.
struct Tile {
    int rows;
    const float* weights;     // columns x rows
    const float* bias;        // rows
    const int32_t* channels;  // rows: the output channel of each
    const int32_t* offsets;   // columns: where each reads, from `in` on
    int columns;
    const Run* runs;        // columns by tap
    const uint16_t* masks;  // taps x VECTORS: the pixels whose tap lies in the image; null: all
    const float* in;        // at the first pixel
    float* out;             // at channel 0 and the first pixel
    int64_t out_stride;     // from channel to channel
    const float* add;       // as `out`: what is added to the sums; null: nothing
    int64_t add_stride;
    float low, high;           // bounds of the result
    uint16_t stored[VECTORS];  // the pixels that exist
};

using TileFunction = void (*)(const Tile&);

struct Isa {
    const char* name;
    int lanes;       // pixels of a vector
    int half_lanes;  // pixels of the narrow vector for what is left at the end; 0: there is none
    int max_rows;
    // [rows - 1][0: narrow vector, 1: one vector, 2: two vectors]
    TileFunction tiles[MAX_ROWS][VECTORS + 1];
    // [pixels - 1], for a convolution of so few pixels, and without masks
    TileFunction few[FEW];
    // out[i] = clamp(scale * in[i] + shift + add[i]); add may be null
    void (*affine)(float* out, const float* in, const float* add, float scale, float shift, float low,
                   float high, int64_t count);
    // out[i] = max(out[i], in[i * stride]) and out[i] += in[i * stride]
    void (*max)(float* out, const float* in, int64_t stride, int64_t count);
    void (*sum)(float* out, const float* in, int64_t stride, int64_t count);
    // out[i] = in[i * stride]
    void (*copy)(float* out, const float* in, int64_t stride, int64_t count);
    float (*total)(const float* in, int64_t count);
};

const Isa* portable();
const Isa* avx2();    // null where the compiler or the machine has none
const Isa* avx512();

}  // namespace distlth
