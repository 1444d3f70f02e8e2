// Huffman tables of a baseline JPEG, as look-ups by the bits that come next.
#pragma once

#include <cstddef>
#include <cstdint>

namespace distlth::jpeg {

constexpr int LONGEST_CODE = 16;  // bits
constexpr size_t MOST_SYMBOLS = 256;
constexpr int LOOKUP_BITS = 11;   // longer codes are rare, and a table for all would not stay in the cache
constexpr int MOST_DC_BITS = 11;  // of a difference of 8-bit samples' means
constexpr int MOST_AC_BITS = 10;
constexpr int END_OF_BLOCK = 128;  // the advance of the symbol that ends a block: beyond any other position

// One look-up gives all about a code and the bits after it that hold its value, packed into 32 bits:
// of a DC code, advance is 0; of an AC code, how many coefficients lie from the last one to this one.
// All 0: no code of at most LOOKUP_BITS, or one that must not occur.
using Code = uint32_t;
constexpr int ADVANCE_SHIFT = 6, CODE_SHIFT = 14, VALUE_SHIFT = 19;
constexpr Code pack(int code_bits, int value_bits, int advance) {
    return Code(code_bits + value_bits) | Code(advance) << ADVANCE_SHIFT | Code(code_bits) << CODE_SHIFT |
           Code(value_bits) << VALUE_SHIFT;
}

enum class Class { dc, ac };

// No functions here beyond build(): what reads a table is compiled for each instruction set anew.
struct HuffmanTable {
    Code lookup[1 << LOOKUP_BITS];
    // Codes of one length, read as numbers, follow each other; so do their places in `codes`.
    struct Length {
        uint32_t first, count, place;
    } lengths[LONGEST_CODE + 1];
    Code codes[MOST_SYMBOLS];  // as in lookup

    // Build from what a DHT marker holds (counts of each length, then symbols), unless it was built from the
    // same. Return whether these are codes.
    bool build(const uint8_t* counts, Class kind);

 private:
    uint8_t source_[LONGEST_CODE + MOST_SYMBOLS];
    size_t source_bytes_ = 0;
};

}  // namespace distlth::jpeg
