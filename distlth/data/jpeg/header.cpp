#include "header.h"

#include <cstring>
#include <numeric>

#include "huffman.h"
#include "markers.h"

namespace distlth::jpeg {
namespace {

// The bytes of a marker's segment, from after its length on. Whoever reads asks `left` before.
struct Bytes {
    const uint8_t* at;
    size_t left;

    int next() { return --left, *at++; }
    int next_two() {
        const int high = next();
        return high << 8 | next();
    }
    const uint8_t* take(size_t count) {
        const uint8_t* taken = at;
        at += count, left -= count;
        return taken;
    }
};

class HeaderReader {
 public:
    HeaderReader(const uint8_t* data, size_t bytes, Header& header)
        : data_(data), bytes_(bytes), header_(header) {}

    Status read() {
        if (bytes_ < 2 || data_[0] != 0xFF || data_[1] != SOI) return Status::damaged;
        for (size_t at = 2;;) {
            while (at + 1 < bytes_ && data_[at] == 0xFF && data_[at + 1] == 0xFF) ++at;  // fill bytes
            if (at + 4 > bytes_ || data_[at] != 0xFF) return Status::damaged;
            const int marker = data_[at + 1];
            const size_t length = size_t(data_[at + 2]) << 8 | data_[at + 3];
            if (!has_length(marker)) return Status::damaged;
            if (length < 2 || length > bytes_ - at - 2) return Status::damaged;
            const Status status = segment(marker, {data_ + at + 4, length - 2});
            if (status != Status::decoded) return status;
            at += 2 + length;
            if (marker == SOS) return header_.scan = at, check();
        }
    }

 private:
    Status segment(int marker, Bytes bytes) {
        switch (marker) {
            case DQT: return quantisation(bytes);
            case DHT: return huffman(bytes);
            case DRI: return restart_interval(bytes);
            case SOF0: return frame(bytes);
            case SOS: return scan(bytes);
            case APP14: return adobe(bytes);
            case COM: return Status::decoded;
        }
        if (marker >= APP0 && marker <= APP15) return Status::decoded;
        return is_of_other_kinds(marker) ? Status::other_kind : Status::damaged;
    }

    Status quantisation(Bytes bytes) {
        while (bytes.left > 0) {
            const int number = bytes.next();
            if (number >> 4 == 1) return Status::other_kind;  // steps of 16 bits
            if (number >= TABLES || bytes.left < 64) return Status::damaged;
            const uint8_t* steps = bytes.take(64);
            if (std::memchr(steps, 0, 64)) return Status::damaged;
            header_.quantisation[number] = steps;
        }
        return Status::decoded;
    }

    Status huffman(Bytes bytes) {
        while (bytes.left > 0) {
            const int number = bytes.next();
            if (number >> 4 > 1 || (number & 15) >= TABLES || bytes.left < LONGEST_CODE)
                return Status::damaged;
            const uint8_t* counts = bytes.take(LONGEST_CODE);
            const size_t symbols = std::accumulate(counts, counts + LONGEST_CODE, 0);
            if (symbols > MOST_SYMBOLS || symbols > bytes.left) return Status::damaged;
            bytes.take(symbols);
            (number >> 4 ? header_.ac : header_.dc)[number & 15] = counts;
        }
        return Status::decoded;
    }

    Status restart_interval(Bytes bytes) {
        if (bytes.left != 2) return Status::damaged;
        header_.restart_interval = bytes.next_two();
        return Status::decoded;
    }

    Status frame(Bytes bytes) {
        if (has_frame_ || bytes.left < 6) return Status::damaged;
        has_frame_ = true;
        if (bytes.next() != 8) return Status::other_kind;
        header_.height = bytes.next_two();
        header_.width = bytes.next_two();
        if (header_.width == 0) return Status::damaged;
        if (header_.height == 0) return Status::other_kind;  // a DNL marker follows with the height
        const size_t components = bytes.next();
        if (bytes.left != 3 * components) return Status::damaged;
        if (components != COMPONENTS) return Status::other_kind;
        for (int i = 0; i < COMPONENTS; ++i) {
            ids_[i] = bytes.next();
            sampling_[i] = bytes.next();
            header_.components[i].quantisation = bytes.next();
            if (header_.components[i].quantisation >= TABLES) return Status::damaged;
        }
        if (ids_[0] == ids_[1] || ids_[0] == ids_[2] || ids_[1] == ids_[2]) return Status::damaged;
        return colours();
    }

    Status colours() {
        if (ids_[0] == 'R' && ids_[1] == 'G' && ids_[2] == 'B') return Status::other_kind;
        header_.horizontal = sampling_[0] >> 4;
        header_.vertical = sampling_[0] & 15;
        if (sampling_[1] != 0x11 || sampling_[2] != 0x11) return Status::other_kind;
        const bool known = (header_.horizontal == 1 || header_.horizontal == 2) &&
                           (header_.vertical == 1 || header_.vertical == 2);
        return known ? Status::decoded : Status::other_kind;
    }

    // libjpeg takes three components for YCbCr unless their ids or, without a JFIF marker, Adobe's marker say
    // otherwise. A JFIF marker beside Adobe's is left to libjpeg too.
    Status adobe(Bytes bytes) {
        constexpr int TRANSFORM = 11;
        if (bytes.left <= TRANSFORM || std::memcmp(bytes.at, "Adobe", 5) != 0) return Status::decoded;
        return bytes.at[TRANSFORM] == 1 ? Status::decoded : Status::other_kind;
    }

    Status scan(Bytes bytes) {
        if (!has_frame_ || bytes.left < 1) return Status::damaged;
        const size_t components = bytes.next();
        if (components < 1 || components > COMPONENTS || bytes.left != 2 * components + 3)
            return Status::damaged;
        if (components != COMPONENTS) return Status::other_kind;  // one scan for each
        for (int i = 0; i < COMPONENTS; ++i) {
            if (bytes.next() != ids_[i]) return Status::damaged;
            const int tables = bytes.next();
            if (tables >> 4 >= TABLES || (tables & 15) >= TABLES) return Status::damaged;
            header_.components[i].dc = tables >> 4;
            header_.components[i].ac = tables & 15;
        }
        const bool is_whole = bytes.next() == 0 && bytes.next() == 63 && bytes.next() == 0;
        return is_whole ? Status::decoded : Status::damaged;
    }

    // Check that the tables that the components name are there.
    Status check() const {
        for (const Selectors& one : header_.components)
            if (!header_.quantisation[one.quantisation]) return Status::damaged;
        for (const Selectors& one : header_.components)
            // Motion JPEG leaves out the standard ones.
            if (!header_.dc[one.dc] || !header_.ac[one.ac]) return Status::other_kind;
        return Status::decoded;
    }

    const uint8_t* data_;
    size_t bytes_;
    Header& header_;
    bool has_frame_ = false;
    int ids_[COMPONENTS] = {};
    int sampling_[COMPONENTS] = {};
};

}  // namespace

Status read_header(const uint8_t* data, size_t bytes, Header& header) {
    return HeaderReader(data, bytes, header).read();
}

}  // namespace distlth::jpeg
