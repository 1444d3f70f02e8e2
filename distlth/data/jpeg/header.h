// What stands before the entropy-coded data of a baseline JPEG.
#pragma once

#include "planes.h"

namespace distlth::jpeg {

constexpr int COMPONENTS = 3;  // Y, Cb, Cr
constexpr int TABLES = 4;      // of each sort, at most

// Numbers of a component's tables.
struct Selectors {
    int quantisation, dc, ac;
};

// Tables are pointers into the file's bytes; null: the file has none of that number.
struct Header {
    int height = 0, width = 0;         // pixels
    int horizontal = 0, vertical = 0;  // luma samples for each chroma sample: 1 or 2
    int restart_interval = 0;          // MCUs between restart markers; 0: no markers
    Selectors components[COMPONENTS] = {};
    const uint8_t* quantisation[TABLES] = {};  // 64 steps in zigzag order
    const uint8_t* dc[TABLES] = {};  // how many codes each length from 1 to 16 has, then their symbols
    const uint8_t* ac[TABLES] = {};
    size_t scan = 0;  // where the entropy-coded data begins
};

// Read the header of a baseline YCbCr JPEG with all its components in one scan, as libjpeg understands it.
Status read_header(const uint8_t* data, size_t bytes, Header& header);

}  // namespace distlth::jpeg
