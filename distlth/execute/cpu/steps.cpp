#include "steps.h"

#include <algorithm>
#include <cstring>
#include <limits>

namespace distlth {
namespace {

int ceil_div(int64_t a, int64_t b) { return int((a + b - 1) / b); }

// Pixels x of 0 .. count - 1 whose x * stride + shift lies in 0 .. size - 1: from .first to .second - 1.
std::pair<int, int> inside(int count, int stride, int shift, int size) {
    const int first = shift < 0 ? ceil_div(-shift, stride) : 0;
    const int last = size > shift ? (size - 1 - shift) / stride + 1 : 0;
    return {std::min(first, count), std::max(std::min(first, count), std::min(last, count))};
}

// ------------------------------------------------------------------------------------------ convolution

// What a strip of pixels of the input may take, so that it stays in a core's cache while blocks pass over
// it; more where the weights themselves do not stay there, since they pass once for every strip.
constexpr int64_t STRIP_BYTES = 256 << 10, LONG_STRIP_BYTES = 1 << 20, RESIDENT_WEIGHTS = 512 << 10;

class ConvolutionStep : public PixelStep {
   public:
    ConvolutionStep(const Isa& isa, const std::vector<Block>& blocks, const Grid& grid, Tensor in,
                const Tensor* add, Tensor out, Range range, int images)
        : isa_(isa), blocks_(blocks), in_(in), add_(add ? *add : out), adds_(add), out_(out), range_(range) {
        pixels_ = out.size.pixels() * images;
        tile_pixels_ = VECTORS * isa.lanes;
        tiles_ = ceil_div(pixels_, tile_pixels_);
        for (const Block& block : blocks) offsets_.push_back(offsets_of(block, grid));
        mask(grid);
        int64_t weights = 0;
        for (const Block& block : blocks) weights += 4 * int64_t(block.rows.size()) * block.channels.size();
        const int64_t budget = weights > RESIDENT_WEIGHTS ? LONG_STRIP_BYTES : STRIP_BYTES;
        strip_ = std::clamp<int64_t>(budget / (4 * tile_pixels_ * in.size.channels), 1, tiles_);
        strips_ = ceil_div(tiles_, strip_);
        strip_ = ceil_div(tiles_, strips_);
    }

    int tasks() const override { return strips_ * int(blocks_.size()); }

    void run(int task, const Call& call) const override {
        const int first = task / int(blocks_.size()) * strip_;
        run_block(task % int(blocks_.size()), first, std::min(first + strip_, tiles_), call);
    }

    int tiles() const override { return tiles_; }

    void run_tiles(int first, int last, const Call& call) const override {
        for (int index = 0; index < int(blocks_.size()); ++index) run_block(index, first, last, call);
    }

   private:
    void run_block(int index, int first, int last, const Call& call) const {
        const Block& block = blocks_[index];
        Tile tile{};
        tile.offsets = offsets_[index].data();
        tile.columns = int(offsets_[index].size());
        tile.runs = block.runs.data();
        tile.out_stride = out_.channel_stride;
        tile.add_stride = add_.channel_stride;
        tile.low = range_.low;
        tile.high = range_.high;
        const bool is_few = pixels_ <= FEW && masks_.empty();
        for (int t = first; t < last; ++t) {
            const int64_t pixel = int64_t(t) * tile_pixels_;
            const int left = int(std::min<int64_t>(pixels_ - pixel, tile_pixels_));
            const int vectors = left > isa_.lanes ? 2 : left > isa_.half_lanes ? 1 : 0;
            for (int v = 0; v < VECTORS; ++v)
                tile.stored[v] = uint16_t((1u << std::clamp(left - v * isa_.lanes, 0, isa_.lanes)) - 1);
            tile.masks = masks_.empty() ? nullptr : masks_.data() + int64_t(t) * taps_ * VECTORS;
            tile.in = in_.read(call) + pixel;
            tile.out = out_.write(call) + pixel;
            tile.add = adds_ ? add_.read(call) + pixel : nullptr;
            for (const Rows& rows : block.tiles) {
                tile.weights = rows.weights.data();
                tile.bias = block.bias.data() + rows.first;
                tile.channels = block.rows.data() + rows.first;
                tile.rows = rows.count;
                is_few ? isa_.few[left - 1](tile) : isa_.tiles[rows.count - 1][vectors](tile);
            }
        }
    }

    std::vector<int32_t> offsets_of(const Block& block, const Grid& grid) const {
        std::vector<int32_t> offsets;
        for (size_t k = 0; k < block.channels.size(); ++k) {
            const Tap& tap = grid.taps[block.taps[k]];
            const int64_t channel = int64_t(block.channels[k]) * grid.channels_each + tap.channel;
            offsets.push_back(int32_t(channel * in_.channel_stride + tap.dy * grid.width + tap.dx));
        }
        return offsets;
    }

    // Fill the masks: tiles x taps x vectors, none where every tap of every pixel lies on the grid.
    void mask(const Grid& grid) {
        taps_ = int(grid.taps.size());
        const auto moves = [](const Tap& tap) { return tap.dy || tap.dx; };
        if (std::none_of(grid.taps.begin(), grid.taps.end(), moves)) return;
        masks_.assign(int64_t(tiles_) * taps_ * VECTORS, 0);
        for (int64_t i = 0; i < pixels_; ++i) {
            const int pixel = int(i % (grid.height * grid.width));
            const int y = pixel / grid.width, x = pixel % grid.width, place = int(i % tile_pixels_);
            uint16_t* masks = masks_.data() + i / tile_pixels_ * taps_ * VECTORS + place / isa_.lanes;
            for (int t = 0; t < taps_; ++t) {
                const int ty = y + grid.taps[t].dy, tx = x + grid.taps[t].dx;
                if (ty >= 0 && ty < grid.height && tx >= 0 && tx < grid.width)
                    masks[t * VECTORS] |= uint16_t(1u << place % isa_.lanes);
            }
        }
    }

    const Isa& isa_;
    const std::vector<Block>& blocks_;
    Tensor in_, add_;
    bool adds_;
    Tensor out_;
    Range range_;
    int64_t pixels_;
    int tile_pixels_, tiles_, taps_, strip_, strips_;
    std::vector<std::vector<int32_t>> offsets_;
    std::vector<uint16_t> masks_;
};

// ------------------------------------------------------------------------------- steps by whole channels

// A step whose tasks are ranges of output channels.
class ByChannel : public Step {
   public:
    ByChannel(int channels, int64_t entries) : channels_(channels) {
        each_ = std::clamp<int64_t>(SHARE / std::max<int64_t>(1, entries), 1, channels);
    }
    int tasks() const override { return ceil_div(channels_, each_); }
    void run(int task, const Call& call) const override {
        const int last = std::min((task + 1) * each_, channels_);
        for (int channel = task * each_; channel < last; ++channel) compute(channel, call);
    }

   protected:
    virtual void compute(int channel, const Call& call) const = 0;

   private:
    static constexpr int64_t SHARE = 1 << 14;  // entries of a task
    int channels_, each_;
};

class Copy : public ByChannel {
   public:
    Copy(const Isa& isa, std::vector<Shift> shifts, int stride_y, int stride_x, Tensor in, Tensor out,
         int images)
        : ByChannel(out.size.channels, out.size.pixels() * images),
          isa_(isa),
          shifts_(std::move(shifts)),
          stride_y_(stride_y),
          stride_x_(stride_x),
          in_(in),
          out_(out),
          images_(images) {}

   private:
    void compute(int channel, const Call& call) const override {
        const auto [height, width] = std::pair(out_.size.height, out_.size.width);
        const Shift shift = shifts_[channel % shifts_.size()];
        const auto [x0, x1] = inside(width, stride_x_, shift.x, in_.size.width);
        const auto [y0, y1] = inside(height, stride_y_, shift.y, in_.size.height);
        const float* from = in_.read(call) + channel / int(shifts_.size()) * in_.channel_stride;
        float* to = out_.write(call) + channel * out_.channel_stride;
        for (int n = 0; n < images_; ++n, from += in_.image_stride, to += out_.image_stride) {
            for (int y = 0; y < height; ++y) {
                float* row = to + int64_t(y) * width;
                if (y < y0 || y >= y1 || x0 == x1) {
                    std::fill(row, row + width, 0.0f);
                    continue;
                }
                const int64_t source = int64_t(y * stride_y_ + shift.y) * in_.size.width;
                std::fill(row, row + x0, 0.0f);
                isa_.copy(row + x0, from + source + x0 * stride_x_ + shift.x, stride_x_, x1 - x0);
                std::fill(row + x1, row + width, 0.0f);
            }
        }
    }

    const Isa& isa_;
    std::vector<Shift> shifts_;
    int stride_y_, stride_x_;
    Tensor in_, out_;
    int images_;
};

class Affine : public ByChannel {
   public:
    Affine(const Isa& isa, std::vector<float> scale, std::vector<float> shift, Tensor in, const Tensor* add,
           Tensor out, Range range, int images)
        : ByChannel(out.size.channels, out.size.pixels() * images),
          isa_(isa),
          scale_(std::move(scale)),
          shift_(std::move(shift)),
          in_(in),
          add_(add ? *add : out),
          adds_(add),
          out_(out),
          range_(range),
          images_(images) {}

   private:
    void compute(int channel, const Call& call) const override {
        const float* add = adds_ ? add_.read(call) + channel * add_.channel_stride : nullptr;
        isa_.affine(out_.write(call) + channel * out_.channel_stride,
                    in_.read(call) + channel * in_.channel_stride, add,
                    scale_.empty() ? 1.0f : scale_[channel], shift_.empty() ? 0.0f : shift_[channel],
                    range_.low, range_.high, out_.size.pixels() * images_);
    }

    const Isa& isa_;
    std::vector<float> scale_, shift_;
    Tensor in_, add_;
    bool adds_;
    Tensor out_;
    Range range_;
    int images_;
};

class Pool : public ByChannel {
   public:
    Pool(const Isa& isa, Pooling kind, Window window, Tensor in, Tensor out, int images)
        : ByChannel(out.size.channels, out.size.pixels() * images * window.taps()),
          isa_(isa),
          kind_(kind),
          window_(window),
          in_(in),
          out_(out),
          images_(images) {}

   private:
    void compute(int channel, const Call& call) const override {
        const float* from = in_.read(call) + channel * in_.channel_stride;
        float* to = out_.write(call) + channel * out_.channel_stride;
        std::vector<float> gathered(in_.size.width);
        for (int n = 0; n < images_; ++n, from += in_.image_stride)
            for (int y = 0; y < out_.size.height; ++y, to += out_.size.width) row(from, to, y, gathered);
    }

    // One row of the result: gather the rows of the window, then its columns.
    void row(const float* from, float* to, int y, std::vector<float>& gathered) const {
        const auto gather = kind_ == Pooling::MAX ? isa_.max : isa_.sum;
        const float none = kind_ == Pooling::MAX ? -std::numeric_limits<float>::infinity() : 0.0f;
        const int width = out_.size.width, in_width = in_.size.width;
        std::fill(gathered.begin(), gathered.end(), none);
        for (int i = 0; i < window_.height; ++i) {
            const int source = y * window_.stride_y + i * window_.dilation_y - window_.pad_y;
            if (source >= 0 && source < in_.size.height)
                gather(gathered.data(), from + int64_t(source) * in_width, 1, in_width);
        }
        std::fill(to, to + width, none);
        for (int j = 0; j < window_.width; ++j) {
            const int shift = j * window_.dilation_x - window_.pad_x;
            const auto [x0, x1] = inside(width, window_.stride_x, shift, in_width);
            if (x0 < x1)
                gather(to + x0, gathered.data() + x0 * window_.stride_x + shift, window_.stride_x, x1 - x0);
        }
        if (kind_ == Pooling::MAX) return;
        const int rows = length(y, window_.stride_y, window_.pad_y, window_.height, in_.size.height);
        for (int x = 0; x < width; ++x)
            to[x] /= rows * length(x, window_.stride_x, window_.pad_x, window_.width, in_width);
    }

    // How many pixels of the window at `place` count, along one dimension.
    int length(int place, int stride, int pad, int extent, int size) const {
        int first = place * stride - pad, last = std::min(first + extent, size + pad);
        if (kind_ == Pooling::MEAN) {
            first = std::max(first, 0);
            last = std::min(last, size);
        }
        return last - first;
    }

    const Isa& isa_;
    Pooling kind_;
    Window window_;
    Tensor in_, out_;
    int images_;
};

class Mean : public ByChannel {
   public:
    Mean(const Isa& isa, Tensor in, Tensor out, int images)
        : ByChannel(out.size.channels, in.size.pixels() * images), isa_(isa), in_(in), out_(out), images_(images) {}

   private:
    void compute(int channel, const Call& call) const override {
        const auto [rows, columns] = std::pair(in_.size.height, in_.size.width);
        const float* from = in_.read(call) + channel * in_.channel_stride;
        float* to = out_.write(call) + channel * out_.channel_stride;
        for (int n = 0; n < images_; ++n, from += in_.image_stride) {
            for (int i = 0; i < out_.size.height; ++i) {
                const auto [y0, y1] = bin(i, rows, out_.size.height);
                for (int j = 0; j < out_.size.width; ++j) {
                    const auto [x0, x1] = bin(j, columns, out_.size.width);
                    float sum = 0;
                    for (int y = y0; y < y1; ++y) sum += isa_.total(from + int64_t(y) * columns + x0, x1 - x0);
                    *to++ = sum / (float(y1 - y0) * float(x1 - x0));
                }
            }
        }
    }

    static std::pair<int, int> bin(int index, int size, int bins) {
        return {int(int64_t(index) * size / bins), ceil_div(int64_t(index + 1) * size, bins)};
    }

    const Isa& isa_;
    Tensor in_, out_;
    int images_;
};

class Flatten : public ByChannel {
   public:
    Flatten(Tensor in, Tensor out, int images)
        : ByChannel(in.size.channels, in.size.pixels() * images), in_(in), out_(out), images_(images) {}

   private:
    void compute(int channel, const Call& call) const override {
        const int64_t pixels = in_.size.pixels();
        const float* from = in_.read(call) + channel * in_.channel_stride;
        float* to = out_.write(call) + channel * pixels * out_.channel_stride;
        for (int n = 0; n < images_; ++n)
            for (int64_t p = 0; p < pixels; ++p)
                to[p * out_.channel_stride + n * out_.image_stride] = from[n * in_.image_stride + p];
    }

    Tensor in_, out_;
    int images_;
};

}  // namespace

Size Window::over(Size size, int channels) const {
    const auto along = [&](int extent, int kernel, int stride, int pad, int dilation) {
        const int span = dilation * (kernel - 1) + 1, room = extent + 2 * pad - span;
        if (room < 0) return 0;
        int count = (ceil ? ceil_div(room, stride) : room / stride) + 1;
        if (ceil && (count - 1) * stride >= extent + pad) --count;
        return count;
    };
    return {channels, along(size.height, height, stride_y, pad_y, dilation_y),
            along(size.width, width, stride_x, pad_x, dilation_x)};
}

std::unique_ptr<Step> convolution(const Isa& isa, const std::vector<Block>& blocks, const Grid& grid,
                                  Tensor in, const Tensor* add, Tensor out, Range range, int images) {
    return std::make_unique<ConvolutionStep>(isa, blocks, grid, in, add, out, range, images);
}

std::unique_ptr<Step> copy(const Isa& isa, std::vector<Shift> shifts, int stride_y, int stride_x, Tensor in,
                           Tensor out, int images) {
    return std::make_unique<Copy>(isa, std::move(shifts), stride_y, stride_x, in, out, images);
}

std::unique_ptr<Step> affine(const Isa& isa, std::vector<float> scale, std::vector<float> shift, Tensor in,
                             const Tensor* add, Tensor out, Range range, int images) {
    return std::make_unique<Affine>(isa, std::move(scale), std::move(shift), in, add, out, range, images);
}

std::unique_ptr<Step> pool(const Isa& isa, Pooling kind, Window window, Tensor in, Tensor out, int images) {
    return std::make_unique<Pool>(isa, kind, window, in, out, images);
}

std::unique_ptr<Step> mean(const Isa& isa, Tensor in, Tensor out, int images) {
    return std::make_unique<Mean>(isa, in, out, images);
}

std::unique_ptr<Step> flatten(Tensor in, Tensor out, int images) {
    return std::make_unique<Flatten>(in, out, images);
}

}  // namespace distlth
