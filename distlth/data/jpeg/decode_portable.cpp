// Decoding a scan on any processor.

#include "idct.h"
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

// Transform eight values that lie `stride` apart.
template <int SHIFT>
void transform_line(int32_t* line, int stride) {
    int32_t in[BLOCK_SIDE];
    for (int i = 0; i < BLOCK_SIDE; ++i) in[i] = line[i * stride];
    const int32_t both = (in[2] + in[6]) * EVEN_BOTH;
    const int32_t even_2 = both + in[2] * EVEN_2, even_6 = both + in[6] * EVEN_6;
    const int32_t sum = (in[0] + in[4]) * (1 << CONSTANT_BITS), difference = (in[0] - in[4]) * (1 << CONSTANT_BITS);
    const int32_t even[] = {sum + even_2, difference + even_6, difference - even_6, sum - even_2};
    const int32_t all = (in[7] + in[3] + in[5] + in[1]) * ODD_ALL;
    const int32_t of_7_1 = (in[7] + in[1]) * ODD_7_1, of_5_3 = (in[5] + in[3]) * ODD_5_3;
    const int32_t of_7_3 = all + (in[7] + in[3]) * ODD_7_3, of_5_1 = all + (in[5] + in[1]) * ODD_5_1;
    const int32_t odd[] = {in[1] * ODD_1 + of_7_1 + of_5_1, in[3] * ODD_3 + of_5_3 + of_7_3,
                           in[5] * ODD_5 + of_5_3 + of_5_1, in[7] * ODD_7 + of_7_1 + of_7_3};
    for (int i = 0; i < BLOCK_SIDE / 2; ++i) {
        constexpr int32_t HALF = 1 << (SHIFT - 1);
        line[i * stride] = (even[i] + odd[i] + HALF) >> SHIFT;
        line[(BLOCK_SIDE - 1 - i) * stride] = (even[i] - odd[i] + HALF) >> SHIFT;
    }
}

bool transform_one(const Coefficients& block) {
    int32_t values[BLOCK_SIZE];
    for (int i = 0; i < BLOCK_SIZE; ++i) {
        const int value = block.values[i];
        if ((value < 0 ? -value : value) > block.quantisation->limits[i]) return false;
        values[i] = value * block.quantisation->steps[i];
    }
    for (int i = 0; i < BLOCK_SIDE; ++i) transform_line<FIRST_SHIFT>(values + i, BLOCK_SIDE);
    for (const int32_t value : values)
        if (value < -LARGEST - 1 || value > LARGEST) return false;
    for (int i = 0; i < BLOCK_SIDE; ++i) {
        int32_t* row = values + i * BLOCK_SIDE;
        transform_line<SECOND_SHIFT>(row, 1);
        for (int j = 0; j < BLOCK_SIDE; ++j) {
            const int sample = row[j] + MIDDLE;
            block.out[i * block.stride + j] = uint8_t(sample < 0 ? 0 : sample > 255 ? 255 : sample);
        }
    }
    return true;
}

bool transform_two(const Coefficients& first, const Coefficients& second) {
    return transform_one(first) && (first.values == second.values || transform_one(second));
}

}  // namespace

Status decode_scan_portable(const Scan& scan) { return ScanDecoder(scan).run(); }

}  // namespace distlth::jpeg
