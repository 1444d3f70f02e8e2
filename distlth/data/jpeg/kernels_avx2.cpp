// The inner loops in AVX2.
#include "kernels.h"

#if defined(__AVX2__)
#include <immintrin.h>

#include <cstring>

namespace distlth::jpeg {

namespace {

inline __m128i load16(const void* from) { return _mm_loadu_si128(static_cast<const __m128i*>(from)); }
inline __m256i load32(const void* from) { return _mm256_loadu_si256(static_cast<const __m256i*>(from)); }
inline void store16(void* to, __m128i value) { _mm_storeu_si128(static_cast<__m128i*>(to), value); }

// Two vectors of 16-bit sums, 1/128 of a level each.
struct Sums {
    __m256i low, high;
};

inline void add_row(Sums& sums, const uint8_t* row, __m256i weight) {
    const __m256i zero = _mm256_setzero_si256(), samples = load32(row);
    const __m256i low = _mm256_slli_epi16(_mm256_unpacklo_epi8(samples, zero), 7);
    const __m256i high = _mm256_slli_epi16(_mm256_unpackhi_epi8(samples, zero), 7);
    sums.low = _mm256_add_epi16(sums.low, _mm256_mulhrs_epi16(low, weight));
    sums.high = _mm256_add_epi16(sums.high, _mm256_mulhrs_epi16(high, weight));
}

inline void store_sums(const Sums& sums, uint8_t* out) {
    const __m256i low = _mm256_srli_epi16(sums.low, 7), high = _mm256_srli_epi16(sums.high, 7);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_packus_epi16(low, high));
}

inline Sums halves() { return {_mm256_set1_epi16(64), _mm256_set1_epi16(64)}; }

// For so few rows all weights stay in registers.
template <int TAPS>
void few_rows(const uint8_t* rows, ptrdiff_t stride, const int16_t* weights, int width, uint8_t* out) {
    __m256i weight[TAPS];
    for (int i = 0; i < TAPS; ++i) weight[i] = _mm256_set1_epi16(weights[i]);
    for (int x = 0; x < width; x += 32) {
        Sums sums = halves();
        for (int i = 0; i < TAPS; ++i) add_row(sums, rows + i * stride + x, weight[i]);
        store_sums(sums, out + x);
    }
}

void vertical(const uint8_t* rows, ptrdiff_t stride, const int16_t* weights, int taps, int width,
              uint8_t* out) {
    switch (taps) {
        case 1: return few_rows<1>(rows, stride, weights, width, out);
        case 2: return few_rows<2>(rows, stride, weights, width, out);
        case 3: return few_rows<3>(rows, stride, weights, width, out);
        case 4: return few_rows<4>(rows, stride, weights, width, out);
        case 5: return few_rows<5>(rows, stride, weights, width, out);
        case 6: return few_rows<6>(rows, stride, weights, width, out);
    }
    for (int x = 0; x < width; x += 32) {
        Sums sums = halves();
        for (int i = 0; i < taps; ++i) add_row(sums, rows + i * stride + x, _mm256_set1_epi16(weights[i]));
        store_sums(sums, out + x);
    }
}

// Sums of pairs of taps (32 bits), two for each of outputs 4g .. 4g + 3.
inline __m256i four_outputs(const Axis& axis, const uint8_t* row, int g) {
    const __m256i samples = _mm256_broadcastsi128_si256(load16(row + axis.windows[g]));
    const __m256i words = _mm256_shuffle_epi8(samples, load32(axis.places + 4 * g));
    return _mm256_madd_epi16(words, load32(axis.weights + 16 * g));
}

inline __m256i rounded(__m256i sums) {
    return _mm256_srai_epi32(_mm256_add_epi32(sums, _mm256_set1_epi32(1 << (WEIGHT_BITS - 1))), WEIGHT_BITS);
}

void horizontal_few(const Axis& axis, const uint8_t* row, uint8_t* out) {
    for (int o = 0; o < axis.outputs; o += OUTPUTS) {
        const int g = o / 4;
        // hadd leaves outputs 0 1 4 5 in the lower half and 2 3 6 7 in the upper one.
        const __m256i a = rounded(_mm256_hadd_epi32(four_outputs(axis, row, g), four_outputs(axis, row, g + 1)));
        const __m256i b =
            rounded(_mm256_hadd_epi32(four_outputs(axis, row, g + 2), four_outputs(axis, row, g + 3)));
        const __m256i words = _mm256_packs_epi32(a, b);
        const __m256i bytes = _mm256_packus_epi16(words, words);
        store16(out + o,
                _mm_unpacklo_epi16(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1)));
    }
}

inline __m128i many_taps(const Axis& axis, const uint8_t* row, int o) {
    const uint8_t* samples = row + axis.first[o];
    const int16_t* weights = axis.weights + ptrdiff_t(o) * axis.taps;
    __m128i sum = _mm_setzero_si128();
    for (int i = 0; i < axis.taps; i += MANY_TAPS) {
        const __m128i eight =
            _mm_cvtepu8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(samples + i)));
        sum = _mm_add_epi32(sum, _mm_madd_epi16(eight, load16(weights + i)));
    }
    return sum;
}

void horizontal_many(const Axis& axis, const uint8_t* row, uint8_t* out) {
    for (int o = 0; o < axis.outputs; o += 4) {
        const __m128i a = _mm_hadd_epi32(many_taps(axis, row, o), many_taps(axis, row, o + 1));
        const __m128i b = _mm_hadd_epi32(many_taps(axis, row, o + 2), many_taps(axis, row, o + 3));
        const __m128i half = _mm_set1_epi32(1 << (WEIGHT_BITS - 1));
        const __m128i sums = _mm_srai_epi32(_mm_add_epi32(_mm_hadd_epi32(a, b), half), WEIGHT_BITS);
        const __m128i words = _mm_packs_epi32(sums, sums);
        const int bytes = _mm_cvtsi128_si32(_mm_packus_epi16(words, words));
        std::memcpy(out + o, &bytes, 4);
    }
}

void horizontal(const Axis& axis, const uint8_t* row, uint8_t* out) {
    (axis.taps == FEW_TAPS ? horizontal_few : horizontal_many)(axis, row, out);
}

// 16 levels of chroma around 0, in 1/64.
inline __m256i chroma(const uint8_t* from) {
    return _mm256_slli_epi16(_mm256_sub_epi16(_mm256_cvtepu8_epi16(load16(from)), _mm256_set1_epi16(128)), 6);
}

inline __m256i factor(__m256i chroma, int by) { return _mm256_mulhrs_epi16(chroma, _mm256_set1_epi16(short(by))); }

// 16 pixels: three vectors of bytes, one colour each, woven into 48 bytes.
inline void store_rgb(__m128i red, __m128i green, __m128i blue, uint8_t* rgb) {
    const __m128i places[3][3] = {
        {_mm_setr_epi8(0, -1, -1, 1, -1, -1, 2, -1, -1, 3, -1, -1, 4, -1, -1, 5),
         _mm_setr_epi8(-1, 0, -1, -1, 1, -1, -1, 2, -1, -1, 3, -1, -1, 4, -1, -1),
         _mm_setr_epi8(-1, -1, 0, -1, -1, 1, -1, -1, 2, -1, -1, 3, -1, -1, 4, -1)},
        {_mm_setr_epi8(-1, -1, 6, -1, -1, 7, -1, -1, 8, -1, -1, 9, -1, -1, 10, -1),
         _mm_setr_epi8(5, -1, -1, 6, -1, -1, 7, -1, -1, 8, -1, -1, 9, -1, -1, 10),
         _mm_setr_epi8(-1, 5, -1, -1, 6, -1, -1, 7, -1, -1, 8, -1, -1, 9, -1, -1)},
        {_mm_setr_epi8(-1, 11, -1, -1, 12, -1, -1, 13, -1, -1, 14, -1, -1, 15, -1, -1),
         _mm_setr_epi8(-1, -1, 11, -1, -1, 12, -1, -1, 13, -1, -1, 14, -1, -1, 15, -1),
         _mm_setr_epi8(10, -1, -1, 11, -1, -1, 12, -1, -1, 13, -1, -1, 14, -1, -1, 15)}};
    for (int part = 0; part < 3; ++part) {
        const __m128i red_green = _mm_or_si128(_mm_shuffle_epi8(red, places[part][0]),
                                               _mm_shuffle_epi8(green, places[part][1]));
        store16(rgb + 16 * part, _mm_or_si128(red_green, _mm_shuffle_epi8(blue, places[part][2])));
    }
}

void colour(const uint8_t* luma, const uint8_t* blue, const uint8_t* red, int count, uint8_t* rgb) {
    for (int x = 0; x < count; x += 16) {
        const __m256i y = _mm256_add_epi16(_mm256_slli_epi16(_mm256_cvtepu8_epi16(load16(luma + x)), 5),
                                           _mm256_set1_epi16(16));
        const __m256i cb = chroma(blue + x), cr = chroma(red + x);
        const __m256i sum = _mm256_add_epi16(factor(cb, GREEN_OF_CB), factor(cr, GREEN_OF_CR));
        const __m256i r = _mm256_srai_epi16(_mm256_add_epi16(y, factor(cr, RED_OF_CR)), 5);
        const __m256i g = _mm256_srai_epi16(_mm256_add_epi16(y, _mm256_srai_epi16(sum, 1)), 5);
        const __m256i b = _mm256_srai_epi16(_mm256_add_epi16(y, factor(cb, BLUE_OF_CB)), 5);
        const __m256i rg = _mm256_permute4x64_epi64(_mm256_packus_epi16(r, g), 0xD8);
        const __m256i bb = _mm256_permute4x64_epi64(_mm256_packus_epi16(b, b), 0xD8);
        const __m128i reds = _mm256_castsi256_si128(rg), greens = _mm256_extracti128_si256(rg, 1);
        if (x + 16 <= count) {
            store_rgb(reds, greens, _mm256_castsi256_si128(bb), rgb + 3 * x);
        } else {  // nothing may be written beyond the end
            uint8_t last[48];
            store_rgb(reds, greens, _mm256_castsi256_si128(bb), last);
            std::memcpy(rgb + 3 * x, last, size_t(3 * (count - x)));
        }
    }
}

constexpr Kernels KERNELS{vertical, horizontal, colour};

}  // namespace

const Kernels* avx2_kernels() {
    const bool is_there = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2");
    return is_there ? &KERNELS : nullptr;
}

}  // namespace distlth::jpeg

#else

namespace distlth::jpeg {

const Kernels* avx2_kernels() { return nullptr; }

}  // namespace distlth::jpeg

#endif
