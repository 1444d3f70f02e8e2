// Resamples random crops of random planes, which lie in no more memory than is promised, by all instruction sets.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include "resample.h"

using namespace distlth::jpeg;

namespace {

std::mt19937 random_bits(1);

// Mostly small, now and then large.
int draw(int low, int high) {
    const double even = std::uniform_real_distribution<double>(0, 1)(random_bits);
    return low + int((high - low + 1) * even * even * 0.9999);
}

int up(int value, int divisor) { return (value + divisor - 1) / divisor; }

struct Image {
    Planes planes{};
    std::unique_ptr<uint8_t[]> memory[3];
};

// What a decoder leaves of a crop: whole MCUs with 2 pixels around it, and 64 bytes beyond each row.
Image make_image(int height, int width, const Crop& crop) {
    Image image;
    Planes& planes = image.planes;
    planes.image_height = height, planes.image_width = width;
    planes.horizontal = 1 << draw(0, 2), planes.vertical = 1 << draw(0, 1);
    planes.is_grey = !draw(0, 4);
    planes.is_rgb = !planes.is_grey && planes.horizontal == 1 && planes.vertical == 1 && draw(0, 1);
    const int mcu_height = 8 * planes.vertical, mcu_width = 8 * planes.horizontal;
    planes.top = std::max(0, crop.top - 2) / mcu_height * mcu_height;
    planes.left = std::max(0, crop.left - 2) / mcu_width * mcu_width;
    const int bottom = up(std::min(height, crop.top + crop.height + 2), mcu_height) * mcu_height;
    const int right = up(std::min(width, crop.left + crop.width + 2), mcu_width) * mcu_width;
    for (int c = 0; c < (planes.is_grey ? 1 : 3); ++c) {
        const int rows = (bottom - planes.top) / (c ? planes.vertical : 1);
        const int columns = (right - planes.left) / (c ? planes.horizontal : 1);
        const size_t bytes = size_t(rows + 8) * size_t(columns + 64);
        image.memory[c].reset(new uint8_t[bytes]);
        for (size_t i = 0; i < bytes; ++i) image.memory[c][i] = uint8_t(random_bits());
        planes.plane[c] = image.memory[c].get();
        planes.stride[c] = columns + 64;
    }
    return image;
}

bool agree(Resampler& resampler, Resampler& other) {
    const int height = draw(1, 700), width = draw(1, 700);
    const int crop_height = draw(1, height), crop_width = draw(1, width);
    const Crop crop{draw(0, height - crop_height), draw(0, width - crop_width), crop_height, crop_width};
    const int resolution = draw(1, 150);
    const bool is_mirrored = draw(0, 1);
    const Image image = make_image(height, width, crop);
    const size_t bytes = size_t(resolution) * size_t(resolution) * 3;
    const std::unique_ptr<uint8_t[]> one(new uint8_t[bytes]), two(new uint8_t[bytes]);
    resampler.resample(image.planes, crop, is_mirrored, resolution, *kernels(), one.get());
    other.resample(image.planes, crop, is_mirrored, resolution, *kernels("portable"), two.get());
    return std::equal(one.get(), one.get() + bytes, two.get());
}

}  // namespace

int main(int, char** arguments) {
    Resampler resampler, other;
    for (int i = 0; i < std::atoi(arguments[1]); ++i)
        if (!agree(resampler, other)) {
            std::fprintf(stderr, "image %d differs\n", i);
            return 1;
        }
}
