// Bits of a segment without its stuffing bytes. For the files of an instruction set: each has its own copy.
#pragma once

#include <bit>
#include <cstring>

#include "scan.h"

#define DISTLTH_INLINE inline __attribute__((always_inline))

namespace distlth::jpeg {
namespace {

struct Bits {
    uint64_t buffer;      // the next bits, from the highest down
    int count;            // of bits in the buffer
    const uint8_t* next;  // the first byte that is not yet in it
};

// Fill the buffer to at least 56 bits, without a branch: bytes that fit in part are read again the next time.
DISTLTH_INLINE void refill(Bits& bits) {
    uint64_t word;
    std::memcpy(&word, bits.next, sizeof word);
    if constexpr (std::endian::native == std::endian::little) word = __builtin_bswap64(word);
    bits.buffer |= word >> bits.count;
    bits.next += (63 - bits.count) >> 3;
    bits.count |= 56;
}

DISTLTH_INLINE void drop(Bits& bits, int count) {
    bits.buffer <<= count;
    bits.count -= count;
}

DISTLTH_INLINE uint32_t peek(const Bits& bits, int count) { return uint32_t(bits.buffer >> (64 - count)); }

DISTLTH_INLINE int total_bits(Code code) { return code & 63; }
DISTLTH_INLINE int advance(Code code) { return (code >> ADVANCE_SHIFT) & 255; }

// Take a code and its value's bits. A value whose highest bit is 0 is negative: 2^bits - 1 more than it says.
DISTLTH_INLINE int take(Bits& bits, Code code) {
    const uint64_t rest = bits.buffer << ((code >> CODE_SHIFT) & 31);
    const int value_bits = code >> VALUE_SHIFT;
    drop(bits, total_bits(code));
    const int is_negative = ~(int64_t(rest) >> 63);  // all bits set, or none
    return int((rest >> 1) >> (63 - value_bits)) + (is_negative & (1 - (1 << value_bits)));
}

// Return the next code, of any length; 0 if there is none.
inline Code find_code(const HuffmanTable& table, const Bits& bits) {
    if (const Code code = table.lookup[peek(bits, LOOKUP_BITS)]) return code;
    for (int length = 1; length <= LONGEST_CODE; ++length) {
        const HuffmanTable::Length& codes = table.lengths[length];
        const uint32_t i = peek(bits, length) - codes.first;
        if (i < codes.count) return table.codes[codes.place + i];
    }
    return 0;
}

// Return how many bits lie between what was taken and the end; negative: more was taken than there is.
inline ptrdiff_t bits_left(const Bits& bits, const uint8_t* end) {
    return 8 * (end - bits.next) + bits.count;
}

}  // namespace
}  // namespace distlth::jpeg
