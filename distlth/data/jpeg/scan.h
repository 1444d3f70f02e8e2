// What is to be decoded of a scan: all that the code for an instruction set needs.
//
// No header that its files include may define functions which the linker could share between them: it would
// keep one copy, and that may hold instructions which the machine lacks. So these are plain values.
#pragma once

#include "header.h"
#include "huffman.h"

namespace distlth::jpeg {

constexpr int BLOCK_SIDE = 8;  // samples
constexpr int BLOCK_SIZE = BLOCK_SIDE * BLOCK_SIDE;
constexpr int MOST_BLOCKS = 6;  // of an MCU: 2 x 2 of luma, 1 of each chroma
constexpr int STREAMS = 2;      // segments decoded at once

// Dequantised coefficients lie within +-this, and so does each value between the transform's two passes: a
// sum of two then fits 16 bits. Coefficients of 8-bit samples end at 1,024, the values between at 4,096.
constexpr int LARGEST = (1 << 14) - 1;

// Entropy-coded data between two markers: where it begins and ends, in bytes of the file.
struct Segment {
    size_t begin, end;
};

// In the order of rows.
struct Quantisation {
    alignas(32) int16_t steps[BLOCK_SIZE];
    alignas(32) int16_t limits[BLOCK_SIZE];  // the largest coefficient before dequantisation: LARGEST / step
};

struct Component {
    const HuffmanTable* dc;
    const HuffmanTable* ac;
    const Quantisation* quantisation;
    uint8_t* plane;
    ptrdiff_t stride;
    int width, height;  // of an MCU, in samples
};

// A block of an MCU, in the order of the data.
struct Block {
    int component;
    int row, column;  // of its first sample within the MCU
};

// MCUs from a first to before an end.
struct Range {
    int first, end;
};

struct Scan {
    const uint8_t* data;
    const Segment* segments;
    int num_segments;
    int interval;       // MCUs of a segment
    int rows, columns;  // MCUs of the image
    Range wanted_rows, wanted_columns;
    int num_blocks;
    Block blocks[MOST_BLOCKS];
    Component components[COMPONENTS];
    uint8_t* buffers[STREAMS];  // for a segment each, and SPARE bytes that may be read beyond it
};

// A block that runs on beyond its segment is found out at its end: what it may have read until then.
constexpr size_t SPARE = (BLOCK_SIZE * (LONGEST_CODE + MOST_DC_BITS) + 7) / 8 + 2 * sizeof(uint64_t);

// Decode the wanted MCUs into the components' planes.
Status decode_scan_portable(const Scan& scan);
// The same to the bit, where this machine has it.
Status decode_scan_avx2(const Scan& scan);
bool has_avx2();

}  // namespace distlth::jpeg
