// Decoding a scan on any processor.

#include "scan_decoder.h"

namespace distlth::jpeg {
namespace {

const uint8_t* unstuff(const uint8_t* from, const uint8_t* to, uint8_t* out) {
    while (from < to) {
        const void* found = std::memchr(from, 0xFF, to - from);
        const uint8_t* end = found ? static_cast<const uint8_t*>(found) + 1 : to;
        std::memcpy(out, from, end - from);
        out += end - from;
        from = end + (found != nullptr);
    }
    return out;
}

// Transform columns of a block: written for the compiler to take several at once.
template <int SHIFT>
void transform_columns(int32_t* values) {
    constexpr int32_t HALF = 1 << (SHIFT - 1), ONE = 1 << CONSTANT_BITS;
    for (int i = 0; i < BLOCK_SIDE; ++i) {
        int32_t* column = values + i;
        const int32_t c0 = column[0], c1 = column[8], c2 = column[16], c3 = column[24];
        const int32_t c4 = column[32], c5 = column[40], c6 = column[48], c7 = column[56];
        const int32_t both = (c2 + c6) * EVEN_BOTH;
        const int32_t even_2 = both + c2 * EVEN_2, even_6 = both + c6 * EVEN_6;
        const int32_t sum = (c0 + c4) * ONE + HALF, difference = (c0 - c4) * ONE + HALF;
        const int32_t all = (c7 + c3 + c5 + c1) * ODD_ALL;
        const int32_t of_7_1 = (c7 + c1) * ODD_7_1, of_5_3 = (c5 + c3) * ODD_5_3;
        const int32_t of_7_3 = all + (c7 + c3) * ODD_7_3, of_5_1 = all + (c5 + c1) * ODD_5_1;
        const int32_t odd_1 = c1 * ODD_1 + of_7_1 + of_5_1, odd_3 = c3 * ODD_3 + of_5_3 + of_7_3;
        const int32_t odd_5 = c5 * ODD_5 + of_5_3 + of_5_1, odd_7 = c7 * ODD_7 + of_7_1 + of_7_3;
        column[0] = (sum + even_2 + odd_1) >> SHIFT;
        column[8] = (difference + even_6 + odd_3) >> SHIFT;
        column[16] = (difference - even_6 + odd_5) >> SHIFT;
        column[24] = (sum - even_2 + odd_7) >> SHIFT;
        column[32] = (sum - even_2 - odd_7) >> SHIFT;
        column[40] = (difference - even_6 - odd_5) >> SHIFT;
        column[48] = (difference + even_6 - odd_3) >> SHIFT;
        column[56] = (sum + even_2 - odd_1) >> SHIFT;
    }
}

void transpose(const int32_t* in, int32_t* out) {
    for (int i = 0; i < BLOCK_SIDE; ++i)
        for (int j = 0; j < BLOCK_SIDE; ++j) out[i * BLOCK_SIDE + j] = in[j * BLOCK_SIDE + i];
}

bool are_small(const int32_t* values) {
    int32_t beyond = 0;
    for (int i = 0; i < BLOCK_SIZE; ++i) beyond |= (values[i] > LARGEST) | (values[i] < -LARGEST - 1);
    return !beyond;
}

// Dequantise a block. Return whether all values are within LARGEST.
bool dequantise(const Coefficients& block, int32_t* values) {
    int32_t beyond = 0;
    for (int i = 0; i < BLOCK_SIZE; ++i) {
        const int32_t value = block.values[i], limit = block.quantisation->limits[i];
        beyond |= (value > limit) | (value < -limit);
        values[i] = value * block.quantisation->steps[i];
    }
    return !beyond;
}

bool transform_one(const Coefficients& block) {
    int32_t values[BLOCK_SIZE], turned[BLOCK_SIZE];
    if (!dequantise(block, values)) return false;
    transform_columns<FIRST_SHIFT>(values);
    if (!are_small(values)) return false;
    transpose(values, turned);
    transform_columns<SECOND_SHIFT>(turned);
    transpose(turned, values);
    for (int i = 0; i < BLOCK_SIDE; ++i)
        for (int j = 0; j < BLOCK_SIDE; ++j) {
            const int32_t sample = values[i * BLOCK_SIDE + j] + MIDDLE;
            block.out[i * block.stride + j] = uint8_t(sample < 0 ? 0 : sample > 255 ? 255 : sample);
        }
    return true;
}

bool transform_two(const Coefficients& first, const Coefficients& second) {
    return transform_one(first) && (first.values == second.values || transform_one(second));
}

}  // namespace

Status decode_scan_portable(const Scan& scan) { return ScanDecoder(scan).run(); }

}  // namespace distlth::jpeg
