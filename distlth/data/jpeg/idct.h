// Constants of libjpeg's accurate inverse transform (ISLOW: Loeffler, Ligtenberg and Moschytz 1989).
//
// Each 1-D pass multiplies by sqrt(8) more than the true transform: by 8 in all, which the last shift takes.
#pragma once

namespace distlth::jpeg {

constexpr int CONSTANT_BITS = 13;  // of a fraction
constexpr int PASS_BITS = 2;       // of a fraction that the first pass leaves to the second
constexpr int FIRST_SHIFT = CONSTANT_BITS - PASS_BITS;
constexpr int SECOND_SHIFT = CONSTANT_BITS + PASS_BITS + 3;
constexpr int MIDDLE = 128;  // of the samples' range

constexpr double PI = 3.14159265358979323846, SQRT_2 = 1.41421356237309504880;

// Return cos(k pi / 16) by its series.
constexpr double cosine(int k) {
    const double square = (k * PI / 16) * (k * PI / 16);
    double sum = 0, term = 1;
    for (int i = 1; i < 24; i += 2) {
        sum += term;
        term *= -square / (i * (i + 1));
    }
    return sum;
}

// Return sqrt(2) x the sum of signs[i] x cos(i pi / 16) as a fixed-point number.
constexpr int fixed(int c1, int c2, int c3, int c5, int c6, int c7) {
    const double value = SQRT_2 * (c1 * cosine(1) + c2 * cosine(2) + c3 * cosine(3) + c5 * cosine(5) +
                                   c6 * cosine(6) + c7 * cosine(7));
    return int(value * (1 << CONSTANT_BITS) + (value < 0 ? -0.5 : 0.5));
}

// Even part: a rotation of coefficients 2 and 6.
constexpr int EVEN_BOTH = fixed(0, 0, 0, 0, 1, 0);
constexpr int EVEN_2 = fixed(0, 1, 0, 0, -1, 0);
constexpr int EVEN_6 = fixed(0, -1, 0, 0, -1, 0);
// Odd part: of all; of each coefficient; of the sums of two.
constexpr int ODD_ALL = fixed(0, 0, 1, 0, 0, 0);
constexpr int ODD_7 = fixed(-1, 0, 1, 1, 0, -1);
constexpr int ODD_5 = fixed(1, 0, 1, -1, 0, 1);
constexpr int ODD_3 = fixed(1, 0, 1, 1, 0, -1);
constexpr int ODD_1 = fixed(1, 0, 1, -1, 0, -1);
constexpr int ODD_7_1 = fixed(0, 0, -1, 0, 0, 1);
constexpr int ODD_5_3 = fixed(-1, 0, -1, 0, 0, 0);
constexpr int ODD_7_3 = fixed(0, 0, -1, -1, 0, 0);
constexpr int ODD_5_1 = fixed(0, 0, -1, 1, 0, 0);

}  // namespace distlth::jpeg
