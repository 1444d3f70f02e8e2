#include "huffman.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <numeric>

namespace distlth::jpeg {
namespace {

constexpr int MOST_DC_SYMBOL = 15;  // in a table: samples of more bits have more than MOST_DC_BITS

// Return the code of a symbol; 0 if it must not occur.
Code code_of(int symbol, int code_bits, Class kind) {
    if (kind == Class::dc) return symbol <= MOST_DC_BITS ? pack(code_bits, symbol, 0) : 0;
    constexpr int SIXTEEN_ZEROS = 0xF0, END = 0x00;
    if (symbol == END) return pack(code_bits, 0, END_OF_BLOCK);
    if (symbol == SIXTEEN_ZEROS) return pack(code_bits, 0, 16);
    const int zeros = symbol >> 4, value_bits = symbol & 15;
    return value_bits >= 1 && value_bits <= MOST_AC_BITS ? pack(code_bits, value_bits, zeros + 1) : 0;
}

}  // namespace

bool HuffmanTable::build(const uint8_t* counts, Class kind) {
    const size_t symbols = std::accumulate(counts, counts + LONGEST_CODE, size_t(0));
    const size_t bytes = LONGEST_CODE + symbols;
    if (source_bytes_ == bytes && std::memcmp(source_, counts, bytes) == 0) return true;
    source_bytes_ = 0;  // until it is whole
    std::fill_n(lookup, std::size(lookup), Code(0));
    uint32_t number = 0, place = 0;
    for (int bits = 1; bits <= LONGEST_CODE; ++bits, number <<= 1) {
        lengths[bits] = {number, counts[bits - 1], place};
        for (int i = 0; i < counts[bits - 1]; ++i, ++number, ++place) {
            const int symbol = counts[LONGEST_CODE + place];
            const bool is_last = number + 1 >= uint32_t(1) << bits;  // all ones, which no code may be, or beyond
            if (is_last || (kind == Class::dc && symbol > MOST_DC_SYMBOL)) return false;
            codes[place] = code_of(symbol, bits, kind);
            if (bits > LOOKUP_BITS) continue;
            const int spare = LOOKUP_BITS - bits;
            std::fill_n(lookup + (number << spare), 1 << spare, codes[place]);
        }
    }
    std::memcpy(source_, counts, bytes);
    source_bytes_ = bytes;
    return true;
}

}  // namespace distlth::jpeg
