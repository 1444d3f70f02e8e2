#include "plan.h"

#include <algorithm>
#include <atomic>
#include <barrier>
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
    for (Phase& phase : phases_)
        for (int i = phase.first; i < phase.last; i = ends_[i])
            phase.steps.push_back(ends_[i] == i + 1 ? drafts[i].make(tensors, phase.chunk)
                                                    : together(drafts, tensors, i, phase.chunk));
}

std::unique_ptr<Step> Plan::together(const std::vector<Draft>& drafts, const std::vector<Tensor>& tensors,
                                     int first, int chunk) const {
    std::vector<std::unique_ptr<PixelStep>> steps;
    int64_t channels = 0;
    for (int i = first; i < ends_[first]; ++i) {
        steps.push_back(by_pixel(drafts[i].make(tensors, chunk)));
        channels += tensors[drafts[i].writes].size.channels + tensors[drafts[i].reads[0]].size.channels;
    }
    const int64_t bytes = 4 * channels * tensors[drafts[first].writes].size.pixels() * chunk;
    return std::make_unique<Together>(std::move(steps), int(bytes / STRIP_BYTES) + 1);
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

std::vector<Plan::Life> Plan::lives(const std::vector<Draft>& drafts, int num_values) const {
    std::vector<Life> found(num_values);
    for (int v = 0; v < num_values; ++v) found[v].home = v;
    for (const Phase& phase : phases_) {
        for (int i = phase.first, begin = i; i < phase.last; ++i) {
            if (i == ends_[begin]) begin = i;
            const auto touch = [&](int value) {
                Life& life = found[value];
                if (life.first < 0) {
                    life.first = begin;
                    life.chunk = phase.chunk;
                } else if (life.first < phase.first) {
                    life.chunk = images_;
                }
                life.last = ends_[begin] - 1;
            };
            for (const int read : drafts[i].reads) touch(read);
            touch(drafts[i].writes);
        }
    }
    for (Life& life : found) {
        for (const Phase& phase : phases_) {
            if (life.chunk == phase.chunk) continue;
            // What a later phase reads must last while a phase goes through all images.
            if (phase.first <= life.first && life.first < phase.last) life.first = phase.first;
            if (phase.first <= life.last && life.last < phase.last) life.last = phase.last - 1;
        }
    }
    return found;
}

// Let results take the place of what they overwrite, where nobody reads that later.
void Plan::share(const std::vector<Draft>& drafts, std::vector<Life>& lives) const {
    std::vector<int> last_reader(lives.size(), -1);
    for (int i = 0; i < int(drafts.size()); ++i)
        for (const int read : drafts[i].reads) last_reader[read] = i;
    for (int i = 0; i < int(drafts.size()); ++i) {
        const int over = drafts[i].over, out = drafts[i].writes;
        if (over <= OUTPUT || out <= OUTPUT || last_reader[over] != i) continue;
        if (lives[over].chunk != lives[out].chunk) continue;
        Life& home = lives[lives[out].home = lives[over].home];
        home.last = std::max(home.last, lives[out].last);
    }
}

std::vector<Tensor> Plan::place(const std::vector<Size>& values, const std::vector<Draft>& drafts) {
    std::vector<Life> lives = this->lives(drafts, int(values.size()));
    share(drafts, lives);
    std::vector<Tensor> tensors;
    for (int v = 0; v < int(values.size()); ++v) {
        const Size size = values[v];
        const int64_t pixels = size.pixels(), stride = spread(lives[v].chunk * pixels);
        if (v == INPUT || v == OUTPUT) {
            const auto place = v == INPUT ? Tensor::Place::INPUT : Tensor::Place::OUTPUT;
            tensors.push_back({place, size, 0, pixels, size.entries(), true});
            continue;
        }
        if (stride * size.channels > INT32_MAX)  // offsets have 32 bits
            throw Mistake("images of this size take more memory than the engine can address");
        tensors.push_back({Tensor::Place::ARENA, size, 0, stride, pixels, lives[v].chunk == images_});
    }
    allocate(lives, tensors);
    return tensors;
}

// Give each value the lowest gap among those that live at the same time.
void Plan::allocate(const std::vector<Life>& lives, std::vector<Tensor>& tensors) {
    const auto end = [&](int v) {
        return tensors[v].offset + tensors[v].channel_stride * tensors[v].size.channels + GUARD;
    };
    std::vector<int> placed;  // by offset
    for (int v = OUTPUT + 1; v < int(tensors.size()); ++v) {
        if (lives[v].first < 0 || lives[v].home != v) continue;
        tensors[v].offset = 0;
        for (const int other : placed) {
            if (lives[other].last < lives[v].first || lives[v].last < lives[other].first) continue;
            if (end(v) <= tensors[other].offset) break;
            tensors[v].offset = std::max(tensors[v].offset, end(other));
        }
        arena_floats_ = std::max(arena_floats_, end(v));
        const auto later = [&](int other) { return tensors[other].offset > tensors[v].offset; };
        placed.insert(std::find_if(placed.begin(), placed.end(), later), v);
    }
    for (int v = OUTPUT + 1; v < int(tensors.size()); ++v) tensors[v].offset = tensors[lives[v].home].offset;
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
