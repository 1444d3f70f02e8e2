// The steps: convolution, and what stands between convolutions.
#pragma once
#include <memory>
#include <vector>

#include "isa.h"
#include "plan.h"

namespace distlth {

// A window that slides over an image.
struct Window {
    int height, width;
    int stride_y, stride_x;
    int pad_y, pad_x;
    int dilation_y, dilation_x;
    bool ceil;  // the last window may begin inside and end outside

    Size over(Size size, int channels) const;
    int taps() const { return height * width; }
    int tap_y(int tap) const { return tap / width * dilation_y - pad_y; }
    int tap_x(int tap) const { return tap % width * dilation_x - pad_x; }
};

struct Range {
    float low, high;
};

// Rows of one tile with their packed weights.
struct Rows {
    int first, count;            // of the block's rows
    std::vector<float> weights;  // columns x count
};

// A dense block of a convolution's weight: rows (output channels) x columns (input channel and tap).
struct Block {
    std::vector<int32_t> rows;
    std::vector<float> bias;
    std::vector<int32_t> channels;  // of the columns, which are sorted by tap
    std::vector<int32_t> taps;
    std::vector<Run> runs;
    std::vector<Rows> tiles;
};

// Where a tap lies on the grid of the output: a channel of the value that is read, and a shift.
struct Tap {
    int channel;  // of channel c: c * channels_each + channel
    int dy, dx;
};

struct Grid {
    int channels_each;
    std::vector<Tap> taps;
    int height, width;
};

std::unique_ptr<Step> convolution(const Isa& isa, const std::vector<Block>& blocks, const Grid& grid,
                                  Tensor in, const Tensor* add, Tensor out, Range range, int images);

struct Shift {
    int y, x;
};

// out[c * shifts + i][y][x] = in[c][y * stride_y + shift_i.y][x * stride_x + shift_i.x], 0 outside
std::unique_ptr<Step> copy(const Isa& isa, std::vector<Shift> shifts, int stride_y, int stride_x, Tensor in,
                           Tensor out, int images);

// out = clamp(scale * in + shift + add) by channel; empty `scale` and `shift` mean 1 and 0.
std::unique_ptr<Step> affine(const Isa& isa, std::vector<float> scale, std::vector<float> shift, Tensor in,
                             const Tensor* add, Tensor out, Range range, int images);

enum class Pooling { MAX, MEAN, MEAN_WITH_PADDING };
std::unique_ptr<Step> pool(const Isa& isa, Pooling kind, Window window, Tensor in, Tensor out, int images);

// Means over bins, as many as `out` has pixels.
std::unique_ptr<Step> mean(const Isa& isa, Tensor in, Tensor out, int images);

// out[c * pixels + p] = in[c][p]
std::unique_ptr<Step> flatten(Tensor in, Tensor out, int images);

}  // namespace distlth
