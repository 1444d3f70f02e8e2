#include "plan.h"

#include <algorithm>
#include <atomic>
#include <barrier>
#include <numeric>
#include <system_error>
#include <thread>

namespace distlth {
namespace {

// As many images are computed at a time as keep what a step reads and writes within this, so that it is
// found in a core's cache by the next step.
constexpr int64_t CHUNK_BYTES = 4 << 20;
// What tiles may read beyond the end of a value.
constexpr int64_t GUARD = 64;

int chunk_of(const std::vector<Size>& values, const Draft& draft, int images) {
    int64_t bytes = 4 * values[draft.writes].entries();
    for (int read : draft.reads) bytes += 4 * values[read].entries();
    int chunk = images;
    while (chunk > 1 && (images % chunk || chunk * bytes > CHUNK_BYTES)) --chunk;
    return chunk;
}

// An odd multiple of a cache line: the channels of a pixel fall into different sets of the cache.
int64_t spread(int64_t floats) {
    const int64_t lines = (floats + 15) / 16;
    return 16 * (lines | 1);
}

// Values larger than this leave a core's cache before the next step reads them. Steps by pixel are computed
// together then, strip by strip, if there are strips enough for many threads.
constexpr int64_t LARGE_VALUE = 1 << 20, FEWEST_PIXELS = 2048;
constexpr int64_t STRIP_BYTES = 256 << 10;

// When a value is first written and last read, as indices of drafts.
struct Life {
    int first = -1, last = -1;
    bool whole = false;
};

// Several steps by pixel, computed strip by strip.
class Together : public Step {
   public:
    Together(std::vector<std::unique_ptr<PixelStep>> steps, int strips) : steps_(std::move(steps)) {
        const int tiles = steps_.front()->tiles();
        strip_ = (tiles + strips - 1) / strips;
        strips_ = (tiles + strip_ - 1) / strip_;
    }
    int tasks() const override { return strips_; }
    void run(int task, const Call& call) const override {
        const int first = task * strip_;
        for (const auto& step : steps_)
            step->run_tiles(first, std::min(first + strip_, step->tiles()), call);
    }

   private:
    std::vector<std::unique_ptr<PixelStep>> steps_;
    int strip_, strips_;
};

std::unique_ptr<PixelStep> by_pixel(std::unique_ptr<Step> step) {
    return std::unique_ptr<PixelStep>(&dynamic_cast<PixelStep&>(*step.release()));
}

}  // namespace

Plan::Plan(const std::vector<Size>& values, const std::vector<Draft>& drafts, int images) : images_(images) {
    divide(values, drafts);
    join(values, drafts);
    const std::vector<Tensor> tensors = place(values, drafts);
    for (Phase& phase : phases_) {
        for (int i = phase.first; i < phase.last; i = ends_[i]) {
            if (ends_[i] == i + 1) {
                phase.steps.push_back(drafts[i].make(tensors, phase.chunk));
                continue;
            }
            std::vector<std::unique_ptr<PixelStep>> steps;
            int64_t channels = 0;
            for (int j = i; j < ends_[i]; ++j) {
                steps.push_back(by_pixel(drafts[j].make(tensors, phase.chunk)));
                channels += values[drafts[j].writes].channels + values[drafts[j].reads[0]].channels;
            }
            const int64_t bytes = 4 * channels * values[drafts[i].writes].pixels() * phase.chunk;
            phase.steps.push_back(std::make_unique<Together>(std::move(steps), int(bytes / STRIP_BYTES) + 1));
        }
    }
}

// Find steps by pixel that follow each other, on values too large to stay in a core's cache.
void Plan::join(const std::vector<Size>& values, const std::vector<Draft>& drafts) {
    ends_.resize(drafts.size());
    for (const Phase& phase : phases_) {
        for (int i = phase.last; i-- > phase.first;) {
            ends_[i] = i + 1;
            if (i + 1 == phase.last || !drafts[i].is_pixelwise || !drafts[i + 1].is_pixelwise) continue;
            const Size size = values[drafts[i].writes], next = values[drafts[i + 1].writes];
            if (size.height != next.height || size.width != next.width) continue;
            const bool is_large = 4 * phase.chunk * size.entries() >= LARGE_VALUE;
            if (is_large && phase.chunk * size.pixels() >= FEWEST_PIXELS) ends_[i] = ends_[i + 1];
        }
    }
}

// Early steps, whose values are large, take few images at a time, later ones more.
void Plan::divide(const std::vector<Size>& values, const std::vector<Draft>& drafts) {
    std::vector<int> chunks(drafts.size());
    int least = images_;
    for (size_t i = drafts.size(); i-- > 0;) {
        const int wanted = chunk_of(values, drafts[i], images_);
        while (least > wanted || images_ % least) --least;
        chunks[i] = least;
    }
    for (int i = 0; i < int(drafts.size()); ++i) {
        if (phases_.empty() || phases_.back().chunk != chunks[i]) phases_.push_back({chunks[i], i, i, {}});
        phases_.back().last = i + 1;
    }
}

std::vector<Tensor> Plan::place(const std::vector<Size>& values, const std::vector<Draft>& drafts) {
    std::vector<Life> lives(values.size());
    std::vector<int> homes(values.size());  // the value whose place each takes
    std::iota(homes.begin(), homes.end(), 0);
    for (const Phase& phase : phases_) {
        for (int i = phase.first, begin = i; i < phase.last; ++i) {
            if (i == ends_[begin]) begin = i;
            const auto touch = [&](int value) {
                Life& life = lives[value];
                if (life.first < 0)
                    life.first = begin;
                else
                    life.whole |= life.first < phase.first;
                life.last = ends_[begin] - 1;
            };
            for (int read : drafts[i].reads) touch(read);
            touch(drafts[i].writes);
        }
    }
    for (Life& life : lives) {  // what later phases read must last while a phase goes through all images
        if (!life.whole) continue;
        for (const Phase& phase : phases_) {
            if (phase.first <= life.first && life.first < phase.last) life.first = phase.first;
            if (phase.first <= life.last && life.last < phase.last) life.last = phase.last - 1;
        }
    }
    std::vector<int> last_reader(values.size(), -1);
    for (int i = 0; i < int(drafts.size()); ++i)
        for (int read : drafts[i].reads) last_reader[read] = i;
    for (int i = 0; i < int(drafts.size()); ++i) {
        const int over = drafts[i].over, out = drafts[i].writes;
        if (over <= OUTPUT || out <= OUTPUT || last_reader[over] != i) continue;
        if (lives[over].whole || lives[out].whole) continue;
        homes[out] = homes[over];
        lives[homes[over]].last = std::max(lives[homes[over]].last, lives[out].last);
    }
    std::vector<Tensor> tensors;
    std::vector<int64_t> ends(values.size(), 0);
    for (int v = 0; v < int(values.size()); ++v) {
        const Size size = values[v];
        const int64_t pixels = size.pixels();
        if (v == INPUT || v == OUTPUT) {
            const auto place = v == INPUT ? Tensor::Place::INPUT : Tensor::Place::OUTPUT;
            tensors.push_back({place, size, 0, pixels, size.entries(), true});
            continue;
        }
        int chunk = images_;
        for (const Phase& phase : phases_)
            if (!lives[v].whole && phase.first <= lives[v].first && lives[v].first < phase.last)
                chunk = phase.chunk;
        const int64_t stride = spread(chunk * pixels);
        if (stride * size.channels > INT32_MAX)  // offsets have 32 bits
            throw Mistake("images of this size take more memory than the engine can address");
        tensors.push_back({Tensor::Place::ARENA, size, 0, stride, pixels, lives[v].whole});
    }
    std::vector<int> placed;
    for (int v = OUTPUT + 1; v < int(values.size()); ++v) {
        if (lives[v].first < 0 || homes[v] != v) continue;
        const int64_t floats = tensors[v].channel_stride * values[v].channels + GUARD;
        std::sort(placed.begin(), placed.end(),
                  [&](int a, int b) { return tensors[a].offset < tensors[b].offset; });
        int64_t offset = 0;
        for (int other : placed) {  // the lowest gap among those that live at the same time
            if (lives[other].last < lives[v].first || lives[v].last < lives[other].first) continue;
            if (tensors[other].offset >= offset + floats) break;
            offset = std::max(offset, ends[other]);
        }
        tensors[v].offset = offset;
        ends[v] = offset + floats;
        arena_floats_ = std::max(arena_floats_, ends[v]);
        placed.push_back(v);
    }
    for (int v = OUTPUT + 1; v < int(values.size()); ++v) tensors[v].offset = tensors[homes[v]].offset;
    return tensors;
}

void Plan::run(const float* in, float* out, float* arena, int threads) const {
    size_t rounds = 0;
    for (const Phase& phase : phases_) rounds += phase.steps.size() * (images_ / phase.chunk);
    std::vector<std::atomic<int>> next(rounds);  // of each step and chunk: the first task that nobody took
    std::barrier<> together(threads);
    const auto work = [&] {
        auto counter = next.begin();
        for (const Phase& phase : phases_) {
            for (int image = 0; image < images_; image += phase.chunk) {
                const Call call{arena, in, out, image};
                for (const auto& step : phase.steps) {
                    const int tasks = step->tasks();
                    for (int task; (task = (*counter)++) < tasks;) step->run(task, call);
                    ++counter;
                    if (threads > 1) together.arrive_and_wait();
                }
            }
        }
    };
    std::vector<std::thread> others;
    for (int i = 1; i < threads; ++i) {
        try {
            others.emplace_back(work);
        } catch (const std::system_error&) {  // the machine has no more threads: do with fewer
            together.arrive_and_drop();
        }
    }
    work();
    for (std::thread& other : others) other.join();
}

}  // namespace distlth
