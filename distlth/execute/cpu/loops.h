// The inner loops, for the vectors of one instruction set. Include it after <immintrin.h> and the like; what
// it defines belongs to the file that includes it (see isa.h).
//
// A vector type V has: `type`, `mask_type`, `lanes`, load(p), load(p, mask), store(p, x), store(p, mask, x), set(float),
// mask(bits), fma(a, b, c), add, max, min. max and min return the second operand where one is no number.
#pragma once
#include <cstdint>

#include "isa.h"

namespace distlth {
namespace {

constexpr int AHEAD = 32;  // columns: how far ahead weights, which pass once, are fetched

#define UNROLLED _Pragma("GCC unroll 16")

// Add, clamp and store the sums of a tile, all of whose pixels exist or not: stores by lane are slow.
template <class V, int R, int N, bool IS_FULL>
inline __attribute__((always_inline)) void finish(const Tile& t, typename V::type (&sums)[R][N]) {
    const auto low = V::set(t.low), high = V::set(t.high);
    UNROLLED for (int r = 0; r < R; ++r) {
        float* out = t.out + t.channels[r] * t.out_stride;
        const float* add = t.add + (t.add ? t.channels[r] * t.add_stride : 0);
        UNROLLED for (int n = 0; n < N; ++n) {
            auto sum = sums[r][n];
            if (IS_FULL) {
                if (t.add) sum = V::add(sum, V::load(add + n * V::lanes));
                V::store(out + n * V::lanes, V::min(high, V::max(low, sum)));
            } else {
                const auto stored = V::mask(t.stored[n]);
                if (t.add) sum = V::add(sum, V::load(add + n * V::lanes, stored));
                V::store(out + n * V::lanes, stored, V::min(high, V::max(low, sum)));
            }
        }
    }
}

// The sums of R rows x N vectors of pixels stay in registers while the columns pass: a column costs N loads
// of pixels, R of weights, and R x N products.
template <class V, int R, int N>
void tile(const Tile& t) {
    typename V::type sums[R][N];
    UNROLLED for (int r = 0; r < R; ++r) {
        const auto bias = V::set(t.bias[r]);
        UNROLLED for (int n = 0; n < N; ++n) sums[r][n] = bias;
    }
    const float* weights = t.weights;
    const int32_t* offset = t.offsets;
    const int32_t* const end = offset + t.columns;
    if (!t.masks) {
        for (; offset != end; ++offset, weights += R) {
            __builtin_prefetch(weights + AHEAD * R);
            typename V::type pixels[N];
            UNROLLED for (int n = 0; n < N; ++n) pixels[n] = V::load(t.in + *offset + n * V::lanes);
            UNROLLED for (int r = 0; r < R; ++r) {
                const auto weight = V::set(weights[r]);
                UNROLLED for (int n = 0; n < N; ++n) sums[r][n] = V::fma(weight, pixels[n], sums[r][n]);
            }
        }
    } else {
        for (const Run* run = t.runs; offset != end; ++run) {
            const int32_t* const last = offset + run->count;
            const uint16_t* bits = t.masks + run->tap * VECTORS;
            typename V::mask_type masks[N];
            UNROLLED for (int n = 0; n < N; ++n) masks[n] = V::mask(bits[n]);
            if (!(bits[0] | (N > 1 ? bits[1] : 0))) {  // all of it outside of the image
                weights += int64_t(R) * run->count;
                offset = last;
            }
            for (; offset != last; ++offset, weights += R) {
                __builtin_prefetch(weights + AHEAD * R);
                typename V::type pixels[N];
                UNROLLED for (int n = 0; n < N; ++n)
                    pixels[n] = V::load(t.in + *offset + n * V::lanes, masks[n]);
                UNROLLED for (int r = 0; r < R; ++r) {
                    const auto weight = V::set(weights[r]);
                    UNROLLED for (int n = 0; n < N; ++n) sums[r][n] = V::fma(weight, pixels[n], sums[r][n]);
                }
            }
        }
    }
    if (t.stored[N - 1] == (1u << V::lanes) - 1)
        finish<V, R, N, true>(t, sums);
    else
        finish<V, R, N, false>(t, sums);
}

// The same for N pixels, few, with vectors along the rows of the tile, which fit into one.
template <class V, int N>
void few(const Tile& t) {
    constexpr int PARTS = 4;  // sums that do not wait for each other
    typename V::type sums[PARTS][N];
    UNROLLED for (int p = 0; p < PARTS; ++p) UNROLLED for (int n = 0; n < N; ++n) sums[p][n] = V::set(0);
    const auto rows = V::mask((1u << t.rows) - 1);
    const auto product = [&](int part, int k) {
        const auto weights = V::load(t.weights + int64_t(k) * t.rows, rows);
        const float* in = t.in + t.offsets[k];
        UNROLLED for (int n = 0; n < N; ++n) sums[part][n] = V::fma(V::set(in[n]), weights, sums[part][n]);
    };
    int k = 0;
    for (; k + PARTS <= t.columns; k += PARTS)
        UNROLLED for (int p = 0; p < PARTS; ++p) product(p, k + p);
    for (; k < t.columns; ++k) product(0, k);
    const auto bias = V::load(t.bias, rows);
    UNROLLED for (int n = 0; n < N; ++n) {
        auto sum = bias;
        UNROLLED for (int p = 0; p < PARTS; ++p) sum = V::add(sum, sums[p][n]);
        float at[V::lanes];
        V::store(at, rows, sum);
        for (int r = 0; r < t.rows; ++r) {
            float x = at[r] + (t.add ? t.add[t.channels[r] * t.add_stride + n] : 0.0f);
            x = x < t.low ? t.low : x;
            t.out[t.channels[r] * t.out_stride + n] = x > t.high ? t.high : x;
        }
    }
}

void affine(float* out, const float* in, const float* add, float scale, float shift, float low, float high,
            int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
        float x = scale * in[i] + shift;
        if (add) x += add[i];
        x = x < low ? low : x;  // no number stays none
        out[i] = x > high ? high : x;
    }
}

void max(float* out, const float* in, int64_t stride, int64_t count) {
    const auto larger = [](float a, float b) { return (b > a) | (b != b) ? b : a; };
    if (stride == 1)
        for (int64_t i = 0; i < count; ++i) out[i] = larger(out[i], in[i]);
    else if (stride == 2)
        for (int64_t i = 0; i < count; ++i) out[i] = larger(out[i], in[2 * i]);
    else
        for (int64_t i = 0; i < count; ++i) out[i] = larger(out[i], in[i * stride]);
}

void sum(float* out, const float* in, int64_t stride, int64_t count) {
    if (stride == 1)
        for (int64_t i = 0; i < count; ++i) out[i] += in[i];
    else
        for (int64_t i = 0; i < count; ++i) out[i] += in[i * stride];
}

void copy(float* out, const float* in, int64_t stride, int64_t count) {
    if (stride == 1)
        __builtin_memcpy(out, in, count * sizeof(float));
    else if (stride == 2)
        for (int64_t i = 0; i < count; ++i) out[i] = in[2 * i];
    else
        for (int64_t i = 0; i < count; ++i) out[i] = in[i * stride];
}

float total(const float* in, int64_t count) {
    float parts[16] = {};
    int64_t i = 0;
    for (; i + 16 <= count; i += 16)
        for (int j = 0; j < 16; ++j) parts[j] += in[i + j];
    float rest = 0;
    for (; i < count; ++i) rest += in[i];
    for (int j = 0; j < 16; ++j) rest += parts[j];
    return rest;
}

// The functions for 1 .. R rows; `Narrow` is V where there is no narrower one.
template <class V, class Narrow, int R>
struct Tiles {
    static void fill(Isa& isa) {
        Tiles<V, Narrow, R - 1>::fill(isa);
        isa.tiles[R - 1][0] = tile<Narrow, R, 1>;
        isa.tiles[R - 1][1] = tile<V, R, 1>;
        isa.tiles[R - 1][2] = tile<V, R, 2>;
    }
};
template <class V, class Narrow>
struct Tiles<V, Narrow, 0> {
    static void fill(Isa&) {}
};

template <class V, class Narrow, int R>
Isa described(const char* name) {
    Isa isa{};
    isa.name = name;
    isa.lanes = V::lanes;
    isa.half_lanes = Narrow::lanes < V::lanes ? Narrow::lanes : 0;
    isa.max_rows = R;
    isa.affine = affine;
    isa.max = max;
    isa.sum = sum;
    isa.copy = copy;
    isa.total = total;
    Tiles<V, Narrow, R>::fill(isa);
    static_assert(R <= V::lanes);
    isa.few[0] = few<V, 1>;
    isa.few[1] = few<V, 2>;
    isa.few[2] = few<V, 3>;
    isa.few[3] = few<V, 4>;
    return isa;
}

}  // namespace
}  // namespace distlth
