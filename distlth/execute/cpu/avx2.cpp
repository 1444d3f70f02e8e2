// AVX2 and FMA: vectors of 8, 16 registers.
#include "isa.h"

#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>

#include "loops.h"

namespace distlth {
namespace {

struct Eight {
    static constexpr int lanes = 8;
    using type = __m256;
    using mask_type = __m256i;

    static type set(float x) { return _mm256_set1_ps(x); }
    static mask_type mask(unsigned bits) {
        const __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
        return _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(int(bits)), lane), lane);
    }
    static type load(const float* p) { return _mm256_loadu_ps(p); }
    static type load(const float* p, mask_type m) { return _mm256_maskload_ps(p, m); }
    static void store(float* p, type x) { _mm256_storeu_ps(p, x); }
    static void store(float* p, mask_type m, type x) { _mm256_maskstore_ps(p, m, x); }
    static type fma(type a, type b, type c) { return _mm256_fmadd_ps(a, b, c); }
    static type add(type a, type b) { return _mm256_add_ps(a, b); }
    static type max(type a, type b) { return _mm256_max_ps(a, b); }
    static type min(type a, type b) { return _mm256_min_ps(a, b); }
};

}  // namespace

const Isa* avx2() {
    static const Isa isa = described<Eight, Eight, 6>("avx2");
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &isa : nullptr;
}

}  // namespace distlth
#else
const distlth::Isa* distlth::avx2() { return nullptr; }
#endif
