// Feeds the decoder of baseline JPEGs with anything, for AddressSanitizer and UndefinedBehaviorSanitizer.
//
// By coverage, an hour (clang++; the corpus stays as it is, and what is new goes to /tmp/jpeg-corpus):
//
//     cd distlth/data/jpeg && mkdir -p /tmp/jpeg-corpus
//     clang++ -std=c++20 -O1 -g -mavx2 -mbmi -mbmi2 -fsanitize=fuzzer,address,undefined \
//         -fno-sanitize-recover=all -I. header.cpp huffman.cpp segments.cpp decode*.cpp \
//         ../../../tests/data/fuzz_jpeg.cpp -o /tmp/fuzz_jpeg
//     /tmp/fuzz_jpeg -max_total_time=3600 -max_len=4096 /tmp/jpeg-corpus ../../../tests/data/jpeg-corpus
//
// With -DCORRUPT it is a program instead, which corrupts each of the files named to it so many times, always
// in the same way: NUMBER FILE...

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <vector>

#include "decode.h"

using namespace distlth::jpeg;

namespace {

constexpr int MOST_PIXELS = 1 << 20;  // of an image: no larger one is worth its time

void require(bool is_true, const char* what) {
    if (is_true) return;
    std::fprintf(stderr, "%s\n", what);
    std::abort();
}

// The header says the size: otherwise nearly all would end at another size.
bool read_size(const uint8_t* data, size_t bytes, int& height, int& width) {
    Header header;
    read_header(data, bytes, header);
    height = header.height, width = header.width;
    return height > 0 && width > 0 && height <= MOST_PIXELS / width;
}

// Draws a crop from the bytes, so that the same bytes always give the same.
Crop any_crop(const uint8_t* data, size_t bytes, int height, int width) {
    uint32_t hash = 2166136261;
    for (size_t i = 0; i < bytes; ++i) hash = (hash ^ data[i]) * 16777619;
    const auto draw = [&](int end) { return int((hash = hash * 1664525 + 1013904223) >> 8) % end; };
    const int top = draw(height), left = draw(width);
    return {top, left, 1 + draw(height - top), 1 + draw(width - left)};
}

// Compare all samples that lie in the image, and touch all that may be read.
void compare(const Planes& one, const Planes& other, const Crop& crop) {
    for (int i = 0; i < COMPONENTS; ++i) {
        const int down = i ? one.vertical : 1, across = i ? one.horizontal : 1;
        const int height = (crop.top + crop.height - one.top + down - 1) / down;
        const int width = (crop.left + crop.width - one.left + across - 1) / across;
        for (int y = 0; y < height; ++y)
            require(
                !std::memcmp(one.plane[i] + y * one.stride[i], other.plane[i] + y * other.stride[i], width),
                "AVX2 and portable code give other samples");
        volatile uint8_t touched = one.plane[i][(height + 7) * one.stride[i] + width + 63];
        (void)touched;
    }
}

void decode_both(const uint8_t* data, size_t bytes) {
    static Baseline best, portable(Instructions::portable);
    int height, width;
    if (!read_size(data, bytes, height, width)) height = width = 1;
    const Crop crop = any_crop(data, bytes, height, width);
    Planes one, other;
    const Status status = best.decode(data, bytes, height, width, crop, one);
    require(status == portable.decode(data, bytes, height, width, crop, other),
            "AVX2 and portable code disagree");
    if (status == Status::decoded) compare(one, other, crop);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
    decode_both(data, bytes);
    return 0;
}

#ifdef CORRUPT

namespace {

uint64_t state = 88172645463325252;

// Marsaglia's xorshift.
size_t draw(size_t end) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return state % end;
}

std::vector<uint8_t> corrupted(std::vector<uint8_t> jpeg) {
    const size_t head = draw(2) ? jpeg.size() : std::min<size_t>(jpeg.size(), 700);
    for (size_t i = 0, changes = 1 + draw(8); i < changes; ++i) jpeg[draw(head)] = uint8_t(draw(256));
    if (draw(5) == 0) jpeg.resize(draw(jpeg.size()) + 1);
    return jpeg;
}

}  // namespace

int main(int count, char** words) {
    for (int i = 2; i < count; ++i) {
        std::ifstream file(words[i], std::ios::binary);
        const std::vector<uint8_t> jpeg(std::istreambuf_iterator<char>(file), {});
        require(!jpeg.empty(), words[i]);
        for (int j = 0; j < std::atoi(words[1]); ++j) {
            const std::vector<uint8_t> bytes = corrupted(jpeg);
            // Of exactly its size, so that the first byte beyond it is seen to be read.
            const std::unique_ptr<uint8_t[]> exact(new uint8_t[bytes.size()]);
            std::memcpy(exact.get(), bytes.data(), bytes.size());
            decode_both(exact.get(), bytes.size());
        }
    }
}

#endif
