// Decoding a scan. For the files of an instruction set, which give it these in their anonymous namespace:
//
//     const uint8_t* unstuff(const uint8_t* from, const uint8_t* to, uint8_t* out)
//         copies a segment without the zeros after 0xFF, and returns its end;
//     bool transform_two(const Coefficients& first, const Coefficients& second)
//         transforms two blocks to samples; false: a value is beyond LARGEST.
//
// Two segments are decoded at once: while the look-up of one is under way, which depends on the one before
// it, the processor does the other's.
#pragma once

#include "bits.h"
#include "idct.h"
#include "zigzag.h"

namespace distlth::jpeg {
namespace {

// A block before its inverse transform, and where its samples go.
struct Coefficients {
    const int16_t* values;  // in the order of rows
    const Quantisation* quantisation;
    uint8_t* out;
    ptrdiff_t stride;
};

const uint8_t* unstuff(const uint8_t* from, const uint8_t* to, uint8_t* out);
bool transform_two(const Coefficients& first, const Coefficients& second);

// Where a stream is in a block: what the inner loop keeps in registers.
struct Cursor {
    Bits bits;
    const Code* lookup;
    int16_t* block;
    int position;  // of the last coefficient in zigzag order; more by END_OF_BLOCK where the block has ended
};

constexpr int LAST = BLOCK_SIZE - 1;
constexpr int SYMBOLS_IN_A_REFILL = 56 / (LOOKUP_BITS + MOST_AC_BITS);

// Decode one coefficient by one look-up. Return false where the code is too long, or the block has ended.
DISTLTH_INLINE bool step(Cursor& cursor) {
    const Code code = cursor.lookup[peek(cursor.bits, LOOKUP_BITS)];
    if (__builtin_expect(code == 0, 0)) return false;
    const int value = take(cursor.bits, code);
    cursor.position += advance(code);
    if (__builtin_expect(cursor.position < LAST, 1)) {
        cursor.block[ZIGZAG.place[cursor.position]] = int16_t(value);
        return true;
    }
    if (cursor.position == LAST) cursor.block[LAST] = int16_t(value);
    return false;
}

// A segment on its way.
struct Stream {
    Cursor cursor;
    int mcu;          // where it is
    int stop, end;    // before which MCU it stops, and before which the segment ends
    int row, column;  // of the MCU
    bool is_wanted;
    int block;                 // of the MCU
    int previous[COMPONENTS];  // DC coefficients
    const uint8_t* bytes_end;
    bool has_ac[MOST_BLOCKS];
    // Of an MCU. Zero between MCUs. The last is of no MCU: for what nobody wants.
    alignas(32) int16_t blocks[MOST_BLOCKS + 1][BLOCK_SIZE];
};

class ScanDecoder {
 public:
    explicit ScanDecoder(const Scan& scan) : scan_(scan) {}

    Status run() {
        bool runs[STREAMS];
        for (int i = 0; i < STREAMS; ++i) runs[i] = begin_segment(i);
        if (runs[0] && runs[1]) run_two(runs);
        for (int i = 0; i < STREAMS; ++i)
            if (runs[i] && !is_damaged_) run_one(streams_[i]);
        return is_damaged_ ? Status::damaged : Status::decoded;
    }

 private:
    // Run both streams until one of them has no more segments.
    void run_two(bool* runs) {
        Cursor first = streams_[0].cursor, second = streams_[1].cursor;
        for (;;) {
            refill(first.bits);
            refill(second.bits);
#pragma GCC unroll 2
            for (int i = 0; i < SYMBOLS_IN_A_REFILL; ++i) {
                if (!step(first)) {
                    streams_[0].cursor = first;
                    if (!(runs[0] = go_on(0))) {
                        streams_[1].cursor = second;
                        return;
                    }
                    first = streams_[0].cursor;
                }
                if (!step(second)) {
                    streams_[1].cursor = second;
                    if (!(runs[1] = go_on(1))) {
                        streams_[0].cursor = first;
                        return;
                    }
                    second = streams_[1].cursor;
                }
            }
        }
    }

    void run_one(Stream& stream) {
        Cursor cursor = stream.cursor;
        for (;;) {
            refill(cursor.bits);
#pragma GCC unroll 2
            for (int i = 0; i < SYMBOLS_IN_A_REFILL; ++i) {
                if (step(cursor)) continue;
                stream.cursor = cursor;
                if (!go_on(&stream - streams_)) return;
                cursor = stream.cursor;
            }
        }
    }

    // Do what step() does not: a long code, or the way from a block's end to the next block. Return false if
    // there is none, or the data is damaged.
    __attribute__((noinline)) bool go_on(int number) {
        Stream& stream = streams_[number];
        if (stream.cursor.position < LAST && !take_long_code(stream)) return damaged();
        if (stream.cursor.position < LAST) return refill(stream.cursor.bits), true;
        if (!end_block(stream)) return damaged();
        if (++stream.block == scan_.num_blocks) {
            if (stream.is_wanted && !transform(stream)) return damaged();
            if (++stream.mcu == stream.stop) {
                const bool is_whole = stream.stop == stream.end;
                if (is_whole && bits_left(stream.cursor.bits, stream.bytes_end) >= 8) return damaged();
                return begin_segment(number);
            }
            if (++stream.column == scan_.columns) stream.column = 0, ++stream.row;
            begin_mcu(stream);
        }
        return begin_block(stream);
    }

    bool damaged() {
        is_damaged_ = true;
        return false;
    }

    // Go to the first block of the next segment that holds anything wanted. Return false if there is none.
    bool begin_segment(int number) {
        Stream& stream = streams_[number];
        for (; next_segment_ < scan_.num_segments; ++next_segment_) {
            const int first = next_segment_ * scan_.interval;
            const int all = scan_.rows * scan_.columns;
            const int end = all - first < scan_.interval ? all : first + scan_.interval;
            const int stop = end_of_wanted(end);
            if (stop <= first) continue;
            if (first / scan_.columns >= scan_.wanted_rows.end) return false;
            const Segment& segment = scan_.segments[next_segment_++];
            uint8_t* bytes = scan_.buffers[number];
            stream.bytes_end = unstuff(scan_.data + segment.begin, scan_.data + segment.end, bytes);
            stream.cursor.bits = {0, 0, bytes};
            stream.mcu = first, stream.stop = stop, stream.end = end;
            stream.row = first / scan_.columns, stream.column = first % scan_.columns;
            for (int& previous : stream.previous) previous = 0;
            begin_mcu(stream);
            return begin_block(stream);
        }
        return false;
    }

    // Return the end of the last wanted MCU before an MCU, or one before that if there is none.
    int end_of_wanted(int end) const {
        const int last = end - 1;
        int row = last / scan_.columns, column = last % scan_.columns;
        if (row >= scan_.wanted_rows.end) row = scan_.wanted_rows.end - 1, column = scan_.columns - 1;
        if (column < scan_.wanted_columns.first) --row, column = scan_.columns - 1;
        if (row < scan_.wanted_rows.first) return 0;
        if (column >= scan_.wanted_columns.end) column = scan_.wanted_columns.end - 1;
        return row * scan_.columns + column + 1;
    }

    void begin_mcu(Stream& stream) {
        stream.block = 0;
        stream.is_wanted = stream.row >= scan_.wanted_rows.first &&
                           stream.column >= scan_.wanted_columns.first &&
                           stream.column < scan_.wanted_columns.end;
    }

    // Decode the DC coefficient of the block that a stream is at.
    bool begin_block(Stream& stream) {
        Cursor& cursor = stream.cursor;
        const int number = scan_.blocks[stream.block].component;
        const Component& component = scan_.components[number];
        refill(cursor.bits);
        const Code code = find_code(*component.dc, cursor.bits);
        if (!code) return damaged();
        const int value = stream.previous[number] += take(cursor.bits, code);
        constexpr int LIMIT = 1 << MOST_DC_BITS;
        if (value < -LIMIT || value >= LIMIT) return damaged();
        cursor.block = stream.blocks[stream.is_wanted ? stream.block : MOST_BLOCKS];
        cursor.block[0] = int16_t(value);
        cursor.lookup = component.ac->lookup;
        cursor.position = 0;
        refill(cursor.bits);
        return true;
    }

    bool take_long_code(Stream& stream) {
        Cursor& cursor = stream.cursor;
        refill(cursor.bits);
        const Code code = find_code(*scan_.components[scan_.blocks[stream.block].component].ac, cursor.bits);
        if (!code) return false;
        const int value = take(cursor.bits, code);
        cursor.position += advance(code);
        if (cursor.position <= LAST) cursor.block[ZIGZAG.place[cursor.position]] = int16_t(value);
        return true;
    }

    // Return whether a block ends within its segment and its 64 coefficients, and not with a zero.
    bool end_block(Stream& stream) {
        const Cursor& cursor = stream.cursor;
        stream.has_ac[stream.block] = cursor.position != END_OF_BLOCK;
        if (bits_left(cursor.bits, stream.bytes_end) < 0) return false;
        if (cursor.position == LAST) return cursor.block[LAST] != 0;
        return cursor.position >= END_OF_BLOCK;
    }

    bool transform(Stream& stream) {
        Coefficients all[MOST_BLOCKS];
        for (int i = 0; i < scan_.num_blocks; ++i) {
            const Block& block = scan_.blocks[i];
            const Component& component = scan_.components[block.component];
            const ptrdiff_t row = (stream.row - scan_.wanted_rows.first) * component.height + block.row;
            const ptrdiff_t column =
                (stream.column - scan_.wanted_columns.first) * component.width + block.column;
            uint8_t* out = component.plane + row * component.stride + column;
            all[i] = {stream.blocks[i], component.quantisation, out, component.stride};
        }
        for (int i = 0; i < scan_.num_blocks; i += 2) {
            const int j = i + 1 < scan_.num_blocks ? i + 1 : i;
            const bool has_ac = stream.has_ac[i] || stream.has_ac[j];
            if (!(has_ac ? transform_two(all[i], all[j]) : fill(all[i]) && fill(all[j]))) return false;
        }
        for (int i = 0; i < scan_.num_blocks; ++i)
            if (stream.has_ac[i]) std::memset(stream.blocks[i], 0, sizeof stream.blocks[i]);
        return true;
    }

    // Transform a block that has a DC coefficient alone: all samples are equal.
    static bool fill(const Coefficients& block) {
        const int value = block.values[0];
        if ((value < 0 ? -value : value) > block.quantisation->limits[0]) return false;
        const int mean = value * block.quantisation->steps[0];
        if (mean < -LARGEST_MEAN - 1 || mean > LARGEST_MEAN) return false;
        const int sample = ((mean + 4) >> 3) + MIDDLE;
        const uint64_t row = 0x0101010101010101 * uint64_t(sample < 0 ? 0 : sample > 255 ? 255 : sample);
        for (int i = 0; i < BLOCK_SIDE; ++i) std::memcpy(block.out + i * block.stride, &row, sizeof row);
        return true;
    }
    static constexpr int LARGEST_MEAN = LARGEST >> PASS_BITS;  // the first pass makes it so much larger

    const Scan& scan_;
    int next_segment_ = 0;
    bool is_damaged_ = false;
    Stream streams_[STREAMS] = {};
};

}  // namespace
}  // namespace distlth::jpeg
