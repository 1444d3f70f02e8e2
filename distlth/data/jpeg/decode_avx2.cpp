// Decoding a scan with AVX2, BMI and BMI2: the inverse transform of two blocks at once, one in each half of
// the vectors.

#include "scan_decoder.h"

#if defined(__AVX2__) && defined(__BMI2__)
#include <immintrin.h>

namespace distlth::jpeg {
namespace {

using Vector = __m256i;  // of 16-bit or 32-bit integers

const uint8_t* unstuff(const uint8_t* from, const uint8_t* to, uint8_t* out) {
    constexpr int BYTES = sizeof(Vector);
    while (to - from >= BYTES) {
        const Vector bytes = _mm256_loadu_si256(reinterpret_cast<const Vector*>(from));
        _mm256_storeu_si256(reinterpret_cast<Vector*>(out), bytes);
        const uint32_t stuffed = _mm256_movemask_epi8(_mm256_cmpeq_epi8(bytes, _mm256_set1_epi8(-1)));
        const int count = stuffed ? __builtin_ctz(stuffed) + 1 : BYTES;
        out += count;
        from += count + (stuffed != 0);
    }
    while (from < to) {
        const uint8_t byte = *out++ = *from++;
        from += byte == 0xFF;
    }
    return out;
}

// Return pairs of factors for madd: `even` for the 16-bit integers of even number, `odd` for the others.
DISTLTH_INLINE Vector factors(int even, int odd) {
    return _mm256_set1_epi32(int(uint32_t(odd) << 16 | (even & 0xFFFF)));
}

// Transform columns: half of them, as `interleave` chooses, in 32 bits.
template <int SHIFT, class Interleave>
DISTLTH_INLINE void transform_half(const Vector* in, Interleave interleave, Vector* out) {
    const Vector zero = _mm256_setzero_si256(), half = _mm256_set1_epi32(1 << (SHIFT - 1));
    // A 16-bit integer above 16 zeros is itself times 2^16.
    constexpr int DOWN = 16 - CONSTANT_BITS;
    const Vector sum = _mm256_srai_epi32(interleave(zero, _mm256_add_epi16(in[0], in[4])), DOWN);
    const Vector difference = _mm256_srai_epi32(interleave(zero, _mm256_sub_epi16(in[0], in[4])), DOWN);
    const Vector of_2_6 = interleave(in[2], in[6]);
    const Vector even_2 = _mm256_madd_epi16(of_2_6, factors(EVEN_BOTH + EVEN_2, EVEN_BOTH));
    const Vector even_6 = _mm256_madd_epi16(of_2_6, factors(EVEN_BOTH, EVEN_BOTH + EVEN_6));
    const Vector sum_half = _mm256_add_epi32(sum, half), difference_half = _mm256_add_epi32(difference, half);
    const Vector even[] = {_mm256_add_epi32(sum_half, even_2), _mm256_add_epi32(difference_half, even_6),
                           _mm256_sub_epi32(difference_half, even_6), _mm256_sub_epi32(sum_half, even_2)};
    const Vector sums = interleave(_mm256_add_epi16(in[7], in[3]), _mm256_add_epi16(in[5], in[1]));
    const Vector of_7_3 = _mm256_madd_epi16(sums, factors(ODD_ALL + ODD_7_3, ODD_ALL));
    const Vector of_5_1 = _mm256_madd_epi16(sums, factors(ODD_ALL, ODD_ALL + ODD_5_1));
    const Vector of_7_1 = interleave(in[7], in[1]), of_5_3 = interleave(in[5], in[3]);
    const Vector odd[] = {
        _mm256_add_epi32(_mm256_madd_epi16(of_7_1, factors(ODD_7_1, ODD_1 + ODD_7_1)), of_5_1),
        _mm256_add_epi32(_mm256_madd_epi16(of_5_3, factors(ODD_5_3, ODD_3 + ODD_5_3)), of_7_3),
        _mm256_add_epi32(_mm256_madd_epi16(of_5_3, factors(ODD_5 + ODD_5_3, ODD_5_3)), of_5_1),
        _mm256_add_epi32(_mm256_madd_epi16(of_7_1, factors(ODD_7 + ODD_7_1, ODD_7_1)), of_7_3)};
#pragma GCC unroll 4
    for (int i = 0; i < BLOCK_SIDE / 2; ++i) {
        out[i] = _mm256_srai_epi32(_mm256_add_epi32(even[i], odd[i]), SHIFT);
        out[BLOCK_SIDE - 1 - i] = _mm256_srai_epi32(_mm256_sub_epi32(even[i], odd[i]), SHIFT);
    }
}

// Transform the columns of two blocks. Results beyond 16 bits become the largest there are.
template <int SHIFT>
DISTLTH_INLINE void transform_columns(Vector* rows) {
    Vector low[BLOCK_SIDE], high[BLOCK_SIDE];
    transform_half<SHIFT>(
        rows, [](Vector a, Vector b) { return _mm256_unpacklo_epi16(a, b); }, low);
    transform_half<SHIFT>(
        rows, [](Vector a, Vector b) { return _mm256_unpackhi_epi16(a, b); }, high);
#pragma GCC unroll 8
    for (int i = 0; i < BLOCK_SIDE; ++i) rows[i] = _mm256_packs_epi32(low[i], high[i]);
}

DISTLTH_INLINE void transpose(Vector* rows) {
    Vector twos[BLOCK_SIDE], fours[BLOCK_SIDE];
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        twos[i] = _mm256_unpacklo_epi16(rows[i], rows[i + 1]);
        twos[i + 1] = _mm256_unpackhi_epi16(rows[i], rows[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
        fours[i] = _mm256_unpacklo_epi32(twos[i], twos[i + 2]);
        fours[i + 1] = _mm256_unpackhi_epi32(twos[i], twos[i + 2]);
        fours[i + 2] = _mm256_unpacklo_epi32(twos[i + 1], twos[i + 3]);
        fours[i + 3] = _mm256_unpackhi_epi32(twos[i + 1], twos[i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        rows[2 * i] = _mm256_unpacklo_epi64(fours[i], fours[i + 4]);
        rows[2 * i + 1] = _mm256_unpackhi_epi64(fours[i], fours[i + 4]);
    }
}

// Return the same row of two blocks, or of two quantisations.
DISTLTH_INLINE Vector two_rows(const int16_t* first, const int16_t* second, int row) {
    const auto* low = reinterpret_cast<const __m128i*>(first + row * BLOCK_SIDE);
    const auto* high = reinterpret_cast<const __m128i*>(second + row * BLOCK_SIDE);
    return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_load_si128(low)), _mm_load_si128(high), 1);
}

// Load and dequantise two blocks. Return what is not 0 where a value is beyond LARGEST.
DISTLTH_INLINE Vector dequantise(const Coefficients& first, const Coefficients& second, Vector* rows) {
    Vector beyond = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int i = 0; i < BLOCK_SIDE; ++i) {
        const Vector values = two_rows(first.values, second.values, i);
        const Vector steps = two_rows(first.quantisation->steps, second.quantisation->steps, i);
        const Vector limits = two_rows(first.quantisation->limits, second.quantisation->limits, i);
        beyond = _mm256_or_si256(beyond, _mm256_cmpgt_epi16(_mm256_abs_epi16(values), limits));
        rows[i] = _mm256_mullo_epi16(values, steps);
    }
    return beyond;
}

// Return what has a 16-bit integer's highest bit set where a value is beyond LARGEST.
DISTLTH_INLINE Vector beyond_largest(const Vector* rows) {
    Vector beyond = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int i = 0; i < BLOCK_SIDE; ++i)
        beyond = _mm256_or_si256(beyond, _mm256_add_epi16(rows[i], _mm256_set1_epi16(LARGEST + 1)));
    return beyond;
}

DISTLTH_INLINE void store_two_rows(__m128i rows, const Coefficients& block, int row) {
    uint8_t* out = block.out + row * block.stride;
    _mm_storel_epi64(reinterpret_cast<__m128i*>(out), rows);
    _mm_storeh_pd(reinterpret_cast<double*>(out + block.stride), _mm_castsi128_pd(rows));
}

bool transform_two(const Coefficients& first, const Coefficients& second) {
    Vector rows[BLOCK_SIDE];
    const Vector too_large = dequantise(first, second, rows);
    transform_columns<FIRST_SHIFT>(rows);
    const Vector beyond = _mm256_or_si256(too_large, beyond_largest(rows));
    transpose(rows);
    transform_columns<SECOND_SHIFT>(rows);
    transpose(rows);
    const Vector middle = _mm256_set1_epi8(char(MIDDLE));
#pragma GCC unroll 4
    for (int i = 0; i < BLOCK_SIDE; i += 2) {
        const Vector samples = _mm256_xor_si256(_mm256_packs_epi16(rows[i], rows[i + 1]), middle);
        store_two_rows(_mm256_castsi256_si128(samples), first, i);
        store_two_rows(_mm256_extracti128_si256(samples, 1), second, i);
    }
    return _mm256_testz_si256(beyond, _mm256_set1_epi16(short(0x8000)));
}

}  // namespace

bool has_avx2() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
}

Status decode_scan_avx2(const Scan& scan) { return ScanDecoder(scan).run(); }

}  // namespace distlth::jpeg

#else

namespace distlth::jpeg {

bool has_avx2() { return false; }

Status decode_scan_avx2(const Scan& scan) { return decode_scan_portable(scan); }

}  // namespace distlth::jpeg

#endif
