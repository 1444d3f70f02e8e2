#include "network.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <map>
#include <new>
#include <numeric>

namespace distlth {
namespace {

constexpr int MOST_IMAGES = 32;  // at a time: what a plan is made for at most
constexpr size_t MOST_PLANS = 8;
constexpr int UNIT_ROWS = 3 * MAX_ROWS;  // of a task

int floor_div(int a, int b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }

const Isa* instruction_set(const std::string& name) {
    for (const Isa* isa : {avx512(), avx2(), portable()})
        if (isa && (name == "auto" || name == isa->name)) return isa;
    throw Mistake("this machine has no instruction set \"" + name + "\"");
}

// `count` things in as few parts of at most `most` as possible, about equal: first and count of each.
std::vector<std::pair<int, int>> split(int count, int most) {
    const int parts = (count + most - 1) / most;
    std::vector<std::pair<int, int>> found;
    for (int i = 0, first = 0; i < parts; ++i) {
        const int size = count / parts + (i < count % parts);
        found.push_back({first, size});
        first += size;
    }
    return found;
}

std::string text(Size size) {
    return std::to_string(size.channels) + " x " + std::to_string(size.height) + " x " +
           std::to_string(size.width);
}

class AffineOperator : public Operator {
   public:
    AffineOperator(std::vector<int> inputs, std::vector<float> scale, std::vector<float> shift, Range range)
        : Operator(std::move(inputs)), scale_(std::move(scale)), shift_(std::move(shift)), range_(range) {}
    Size size(const Isa&, const std::vector<Size>& read) const override {
        if (!scale_.empty() && int(scale_.size()) != read[0].channels) throw Mistake("a norm of other channels");
        if (read.size() > 1 && text(read[0]) != text(read[1]))
            throw Mistake("a sum of " + text(read[0]) + " and " + text(read[1]));
        return read[0];
    }
    void draft(const Isa& isa, Drafts& drafts, const std::vector<int>& read, int out) const override {
        drafts.add(read, out, [&isa, this, read, out](const std::vector<Tensor>& at, int images) {
            const Tensor* add = read.size() > 1 ? &at[read[1]] : nullptr;
            return distlth::affine(isa, scale_, shift_, at[read[0]], add, at[out], range_, images);
        });
    }

   private:
    std::vector<float> scale_, shift_;
    Range range_;
};

class PoolOperator : public Operator {
   public:
    PoolOperator(int in, Pooling kind, Window window) : Operator({in}), kind_(kind), window_(window) {}
    Size size(const Isa&, const std::vector<Size>& read) const override {
        return window_.over(read[0], read[0].channels);
    }
    void draft(const Isa& isa, Drafts& drafts, const std::vector<int>& read, int out) const override {
        drafts.add(read, out, [&isa, this, in = read[0], out](const std::vector<Tensor>& at, int images) {
            return distlth::pool(isa, kind_, window_, at[in], at[out], images);
        });
    }

   private:
    Pooling kind_;
    Window window_;
};

class MeanOperator : public Operator {
   public:
    MeanOperator(int in, int height, int width) : Operator({in}), height_(height), width_(width) {}
    Size size(const Isa&, const std::vector<Size>& read) const override {
        return {read[0].channels, height_, width_};
    }
    void draft(const Isa& isa, Drafts& drafts, const std::vector<int>& read, int out) const override {
        drafts.add(read, out, [&isa, in = read[0], out](const std::vector<Tensor>& at, int images) {
            return distlth::mean(isa, at[in], at[out], images);
        });
    }

   private:
    int height_, width_;
};

class Concatenation : public Operator {
   public:
    using Operator::Operator;
    Size size(const Isa&, const std::vector<Size>& read) const override {
        Size all = read[0];
        for (size_t i = 1; i < read.size(); ++i) {
            if (read[i].height != all.height || read[i].width != all.width)
                throw Mistake("a concatenation of " + text(all) + " and " + text(read[i]));
            all.channels += read[i].channels;
        }
        return all;
    }
    void draft(const Isa& isa, Drafts& drafts, const std::vector<int>& read, int out) const override {
        int first = 0;
        for (const int in : read) {
            drafts.add({in}, out, [&isa, in, out, first](const std::vector<Tensor>& at, int images) {
                const Tensor part = at[out].part(first, at[in].size.channels);
                return distlth::copy(isa, {{0, 0}}, 1, 1, at[in], part, images);
            });
            first += drafts.values[in].channels;
        }
    }
};

// Channels of zeros before and after those of the input.
class Padded : public Operator {
   public:
    Padded(int in, int before, int after) : Operator({in}), before_(before), after_(after) {}
    Size size(const Isa&, const std::vector<Size>& read) const override {
        return {before_ + read[0].channels + after_, read[0].height, read[0].width};
    }
    void draft(const Isa& isa, Drafts& drafts, const std::vector<int>& read, int out) const override {
        const Size size = drafts.values[read[0]];
        const int channels = size.channels;
        const auto part = [&](int first, int count, Shift shift) {
            if (!count) return;
            drafts.add({read[0]}, out, [=, &isa, in = read[0]](const std::vector<Tensor>& at, int images) {
                return distlth::copy(isa, {shift}, 1, 1, at[in], at[out].part(first, count), images);
            });
        };
        const Shift outside{size.height, size.width};
        part(0, before_, outside);
        part(before_, channels, {0, 0});
        part(before_ + channels, after_, outside);
    }

   private:
    int before_, after_;
};

class FlattenOperator : public Operator {
   public:
    using Operator::Operator;
    Size size(const Isa&, const std::vector<Size>& read) const override {
        return {int(read[0].entries()), 1, 1};
    }
    void draft(const Isa&, Drafts& drafts, const std::vector<int>& read, int out) const override {
        drafts.add(read, out, [in = read[0], out](const std::vector<Tensor>& at, int images) {
            return distlth::flatten(at[in], at[out], images);
        });
    }
};

}  // namespace

// ------------------------------------------------------------------------------------------ convolution

Convolution::Convolution(std::vector<int> inputs, int in_channels, int out_channels, Window window,
                         Range range)
    : Operator(std::move(inputs)),
      in_channels_(in_channels),
      out_channels_(out_channels),
      window_(window),
      range_(range),
      has_row_(std::max(0, out_channels), false) {
    if (window.stride_y < 1 || window.stride_x < 1 || window.taps() < 1) throw Mistake("an empty window");
}

void Convolution::block(const Isa& isa, const int32_t* rows, int num_rows, const int32_t* columns,
                        int num_columns, const float* weights, const float* bias) {
    const int taps = window_.taps();
    for (int i = 0; i < num_rows; ++i) {
        if (rows[i] < 0 || rows[i] >= out_channels_ || has_row_[rows[i]])
            throw Mistake("a block has an output channel that is not there, or in another block");
        has_row_[rows[i]] = true;
    }
    for (int k = 0; k < num_columns; ++k)
        if (columns[k] < 0 || columns[k] / taps >= in_channels_)
            throw Mistake("a block has a column that is not there");
    std::vector<int> order(num_columns);  // by tap, then by channel
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int a, int b) { return columns[a] % taps < columns[b] % taps; });
    for (const auto& [first, count] : split(num_rows, UNIT_ROWS)) {
        Block block;
        block.rows.assign(rows + first, rows + first + count);
        block.bias.assign(bias + first, bias + first + count);
        for (const int k : order) {
            const int tap = columns[k] % taps;
            block.channels.push_back(columns[k] / taps);
            block.taps.push_back(tap);
            if (block.runs.empty() || block.runs.back().tap != tap) block.runs.push_back({0, tap});
            ++block.runs.back().count;
        }
        for (const auto& [start, height] : split(count, isa.max_rows)) {
            Rows tile{start, height, {}};
            tile.weights.reserve(int64_t(num_columns) * height);
            for (const int k : order)
                for (int r = first + start; r < first + start + height; ++r)
                    tile.weights.push_back(weights[int64_t(r) * num_columns + k]);
            block.tiles.push_back(std::move(tile));
        }
        blocks_.push_back(std::move(block));
    }
    // The longest tasks come first, so that threads end at about the same time.
    std::stable_sort(blocks_.begin(), blocks_.end(), [](const Block& a, const Block& b) {
        return a.rows.size() * a.channels.size() > b.rows.size() * b.channels.size();
    });
}

Size Convolution::size(const Isa&, const std::vector<Size>& read) const {
    if (read[0].channels != in_channels_)
        throw Mistake("a layer for " + std::to_string(in_channels_) + " channels is given " + text(read[0]));
    if (std::find(has_row_.begin(), has_row_.end(), false) != has_row_.end())
        throw Mistake("an output channel is in no block");
    const Size out = window_.over(read[0], out_channels_);
    if (out.height < 1 || out.width < 1) throw Mistake("a window larger than its image, " + text(read[0]));
    if (read.size() > 1 && text(read[1]) != text(out))
        throw Mistake("a sum of " + text(out) + " and " + text(read[1]));
    return out;
}

// The tiles of a convolution need an input on the grid of the output. It is there already where neither
// stride nor padding change the size. Where a stride alone changes it, the input's pixels are dealt to
// stride x stride images; elsewhere each tap gets an image of its own.
void Convolution::draft(const Isa& isa, Drafts& drafts, const std::vector<int>& read, int out) const {
    const Size from = drafts.values[read[0]], to = drafts.values[out];
    Grid grid{1, {}, to.height, to.width};
    int in = read[0];
    if (in_place(from, to)) {
        for (int t = 0; t < window_.taps(); ++t) grid.taps.push_back({0, window_.tap_y(t), window_.tap_x(t)});
    } else {
        const bool by_phases = this->by_phases(from, to);
        std::map<std::array<int, 2>, int> channels;
        std::vector<Shift> shifts;
        for (int t = 0; t < window_.taps(); ++t) {
            const int y = window_.tap_y(t), x = window_.tap_x(t);
            const int dy = by_phases ? floor_div(y, window_.stride_y) : 0;
            const int dx = by_phases ? floor_div(x, window_.stride_x) : 0;
            const Shift shift{y - dy * window_.stride_y, x - dx * window_.stride_x};
            const auto [found, is_new] = channels.insert({{shift.y, shift.x}, int(shifts.size())});
            if (is_new) shifts.push_back(shift);
            grid.taps.push_back({found->second, dy, dx});
        }
        grid.channels_each = int(shifts.size());
        in = copied(isa, drafts, in, to, shifts, window_.stride_y, window_.stride_x);
    }
    std::vector<int> reads = read;
    reads[0] = in;
    const auto make = [&isa, this, grid, reads, out](const std::vector<Tensor>& at, int images) {
        const Tensor* add = reads.size() > 1 ? &at[reads[1]] : nullptr;
        return convolution(isa, blocks_, grid, at[reads[0]], add, at[out], range_, images);
    };
    const bool is_pixelwise = window_.taps() == 1 && grid.taps[0].dy == 0 && grid.taps[0].dx == 0;
    const bool is_free = reads.size() > 1 && reads[1] != reads[0];  // what is added is read at its pixel alone
    drafts.add(reads, out, make, is_pixelwise, is_free ? reads[1] : -1);
}

bool Convolution::in_place(Size in, Size out) const {
    return window_.stride_y == 1 && window_.stride_x == 1 && in.height == out.height && in.width == out.width;
}

// Whether what a tap reads beyond the grid always lies outside of the image.
bool Convolution::by_phases(Size in, Size out) const {
    for (int t = 0; t < window_.taps(); ++t) {
        const int y = window_.tap_y(t), x = window_.tap_x(t);
        const int dy = floor_div(y, window_.stride_y), dx = floor_div(x, window_.stride_x);
        if (dy > 0 && out.height * window_.stride_y + y - dy * window_.stride_y < in.height) return false;
        if (dx > 0 && out.width * window_.stride_x + x - dx * window_.stride_x < in.width) return false;
    }
    return true;
}

int Convolution::copied(const Isa& isa, Drafts& drafts, int in, Size out, std::vector<Shift> shifts,
                        int stride_y, int stride_x) const {
    const int channels = in_channels_ * int(shifts.size());
    const int copy = drafts.value({channels, out.height, out.width});
    drafts.add({in}, copy,
               [&isa, shifts, stride_y, stride_x, in, copy](const std::vector<Tensor>& at, int images) {
                   return distlth::copy(isa, shifts, stride_y, stride_x, at[in], at[copy], images);
               });
    return copy;
}

// ---------------------------------------------------------------------------------------------- network

// Memory for values, in huge pages where the machine gives them.
class Network::Memory {
   public:
    explicit Memory(int64_t floats) : floats_(floats) {
        const size_t page = 2 << 20, bytes = (floats * sizeof(float) + page - 1) / page * page;
        data_ = static_cast<float*>(std::aligned_alloc(page, bytes));
        if (!data_) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
        madvise(data_, bytes, MADV_HUGEPAGE);
#endif
    }
    ~Memory() { std::free(data_); }
    Memory(const Memory&) = delete;
    Memory& operator=(const Memory&) = delete;
    float* data() { return data_; }
    int64_t floats() const { return floats_; }

   private:
    int64_t floats_;
    float* data_;
};

Network::Network(const std::string& isa) : isa_(instruction_set(isa)) { operators_.push_back(nullptr); }
Network::~Network() = default;

int Network::add(std::unique_ptr<Operator> made) {
    for (const int input : made->inputs)
        if (input < 0 || input >= int(operators_.size())) throw Mistake("an operator reads what is not there");
    operators_.push_back(std::move(made));
    return int(operators_.size()) - 1;
}

Operator& Network::at(int index) {
    if (index < 1 || index >= int(operators_.size())) throw Mistake("there is no such operator");
    return *operators_[index];
}

std::vector<Size> Network::sizes(Size in) const {
    std::vector<Size> found{in};
    for (size_t i = 1; i < operators_.size(); ++i) {
        std::vector<Size> read;
        for (const int input : operators_[i]->inputs) read.push_back(found[input]);
        found.push_back(operators_[i]->size(*isa_, read));
    }
    return found;
}

Size Network::size(Size in) const { return sizes(in).back(); }

std::unique_ptr<Plan> Network::make(int images, Size in) const {
    const std::vector<Size> found = sizes(in);
    Drafts drafts;
    drafts.values = {in, found.back()};
    std::vector<int> values;  // of each operator
    for (const Size& size : found) values.push_back(drafts.value(size));
    const auto same = [&](int from, int to) {
        drafts.add({from}, to, [this, from, to](const std::vector<Tensor>& at, int count) {
            return distlth::copy(*isa_, {{0, 0}}, 1, 1, at[from], at[to], count);
        });
    };
    same(INPUT, values[0]);
    for (size_t i = 1; i < operators_.size(); ++i) {
        std::vector<int> read;
        for (const int input : operators_[i]->inputs) read.push_back(values[input]);
        operators_[i]->draft(*isa_, drafts, read, values[i]);
    }
    same(values.back(), OUTPUT);
    return std::make_unique<Plan>(drafts.values, drafts.drafts, images);
}

std::shared_ptr<const Plan> Network::plan(int images, Size in) const {
    const std::lock_guard lock(mutex_);
    const auto fits = [&](const Planned& known) {
        return known.images == images && known.size.height == in.height && known.size.width == in.width &&
               known.size.channels == in.channels;
    };
    const auto known = std::find_if(plans_.begin(), plans_.end(), fits);
    if (known == plans_.end())
        plans_.push_front({images, in, make(images, in)});
    else
        plans_.splice(plans_.begin(), plans_, known);
    if (plans_.size() > MOST_PLANS) plans_.pop_back();
    return plans_.front().plan;
}

void Network::run(const float* in, int images, Size size, float* out, int threads) const {
    const int64_t in_floats = size.entries(), out_floats = this->size(size).entries();
    for (int first = 0; first < images; first += MOST_IMAGES) {
        const auto plan = this->plan(std::min(MOST_IMAGES, images - first), size);
        std::unique_ptr<Memory> memory;
        {
            const std::lock_guard lock(mutex_);
            if (!idle_.empty()) {
                memory = std::move(idle_.back());
                idle_.pop_back();
            }
        }
        if (!memory || memory->floats() < plan->arena_floats()) {
            memory.reset();
            memory = std::make_unique<Memory>(plan->arena_floats());
        }
        plan->run(in + first * in_floats, out + first * out_floats, memory->data(), threads);
        const std::lock_guard lock(mutex_);
        idle_.push_back(std::move(memory));
    }
}

std::unique_ptr<Operator> affine(int in, int add, std::vector<float> scale, std::vector<float> shift,
                                 Range range) {
    std::vector<int> inputs{in};
    if (add >= 0) inputs.push_back(add);
    return std::make_unique<AffineOperator>(std::move(inputs), std::move(scale), std::move(shift), range);
}

std::unique_ptr<Operator> pool(int in, Pooling kind, Window window) {
    return std::make_unique<PoolOperator>(in, kind, window);
}

std::unique_ptr<Operator> mean(int in, int height, int width) {
    return std::make_unique<MeanOperator>(in, height, width);
}

std::unique_ptr<Operator> concatenation(std::vector<int> inputs) {
    return std::make_unique<Concatenation>(std::move(inputs));
}

std::unique_ptr<Operator> pad(int in, int before, int after) {
    return std::make_unique<Padded>(in, before, after);
}

std::unique_ptr<Operator> flatten(int in) {
    return std::make_unique<FlattenOperator>(std::vector<int>{in});
}

}  // namespace distlth
