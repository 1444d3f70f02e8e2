// AVX-512: vectors of 16, 32 registers, loads and stores by lane; narrow ones of 8 at the end of an image.
#include "isa.h"

#if defined(__AVX512F__) && defined(__AVX512VL__)
#include <immintrin.h>

#include "loops.h"

namespace distlth {
namespace {

struct Sixteen {
    static constexpr int lanes = 16;
    using type = __m512;
    using mask_type = __mmask16;

    static type set(float x) { return _mm512_set1_ps(x); }
    static mask_type mask(unsigned bits) { return mask_type(bits); }
    static type load(const float* p) { return _mm512_loadu_ps(p); }
    static type load(const float* p, mask_type m) { return _mm512_maskz_loadu_ps(m, p); }
    static void store(float* p, type x) { _mm512_storeu_ps(p, x); }
    static void store(float* p, mask_type m, type x) { _mm512_mask_storeu_ps(p, m, x); }
    static type fma(type a, type b, type c) { return _mm512_fmadd_ps(a, b, c); }
    static type add(type a, type b) { return _mm512_add_ps(a, b); }
    static type max(type a, type b) { return _mm512_max_ps(a, b); }
    static type min(type a, type b) { return _mm512_min_ps(a, b); }
};

struct Eight {
    static constexpr int lanes = 8;
    using type = __m256;
    using mask_type = __mmask8;

    static type set(float x) { return _mm256_set1_ps(x); }
    static mask_type mask(unsigned bits) { return mask_type(bits); }
    static type load(const float* p) { return _mm256_loadu_ps(p); }
    static type load(const float* p, mask_type m) { return _mm256_maskz_loadu_ps(m, p); }
    static void store(float* p, type x) { _mm256_storeu_ps(p, x); }
    static void store(float* p, mask_type m, type x) { _mm256_mask_storeu_ps(p, m, x); }
    static type fma(type a, type b, type c) { return _mm256_fmadd_ps(a, b, c); }
    static type add(type a, type b) { return _mm256_add_ps(a, b); }
    static type max(type a, type b) { return _mm256_max_ps(a, b); }
    static type min(type a, type b) { return _mm256_min_ps(a, b); }
};

}  // namespace

const Isa* avx512() {
    static const Isa isa = described<Sixteen, Eight, 14>("avx512");
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") ? &isa : nullptr;
}

}  // namespace distlth
#else
const distlth::Isa* distlth::avx512() { return nullptr; }
#endif
