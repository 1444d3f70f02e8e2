// The reference: plain C++ that any machine runs.
#include "loops.h"

namespace distlth {
namespace {

struct Four {
    static constexpr int lanes = 4;
    struct type {
        float at[4];
    };
    using mask_type = unsigned;

    template <class F>
    static type each(F f) {
        return {{f(0), f(1), f(2), f(3)}};
    }
    static type set(float x) { return {{x, x, x, x}}; }
    static mask_type mask(unsigned bits) { return bits; }
    static type load(const float* p) { return each([&](int i) { return p[i]; }); }
    static type load(const float* p, mask_type m) {
        return each([&](int i) { return m >> i & 1 ? p[i] : 0.0f; });
    }
    static void store(float* p, type x) { __builtin_memcpy(p, x.at, sizeof x.at); }
    static void store(float* p, mask_type m, type x) {
        for (int i = 0; i < lanes; ++i)
            if (m >> i & 1) p[i] = x.at[i];
    }
    static type fma(type a, type b, type c) {
        return each([&](int i) { return a.at[i] * b.at[i] + c.at[i]; });
    }
    static type add(type a, type b) {
        return each([&](int i) { return a.at[i] + b.at[i]; });
    }
    static type max(type a, type b) {
        return each([&](int i) { return a.at[i] > b.at[i] ? a.at[i] : b.at[i]; });
    }
    static type min(type a, type b) {
        return each([&](int i) { return a.at[i] < b.at[i] ? a.at[i] : b.at[i]; });
    }
};

}  // namespace

const Isa* portable() {
    static const Isa isa = described<Four, Four, 4>("portable");
    return &isa;
}

}  // namespace distlth
