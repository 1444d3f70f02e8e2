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

struct Life {
    int first = -1, last = -1;
    bool whole = false;
};

}  // namespace

Plan::Plan(const std::vector<Size>& values, const std::vector<Draft>& drafts, int images) : images_(images) {
    divide(values, drafts);
    const std::vector<Tensor> tensors = place(values, drafts);
    for (Phase& phase : phases_)
        for (int i = phase.first; i < phase.last; ++i)
            phase.steps.push_back(drafts[i].make(tensors, phase.chunk));
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
    for (const Phase& phase : phases_) {
        for (int i = phase.first; i < phase.last; ++i) {
            const auto touch = [&](int value) {
                Life& life = lives[value];
                if (life.first < 0)
                    life.first = i;
                else
                    life.whole |= life.first < phase.first;
                life.last = i;
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
        tensors.push_back({Tensor::Place::ARENA, size, 0, stride, pixels, lives[v].whole});
    }
    std::vector<int> placed;
    for (int v = OUTPUT + 1; v < int(values.size()); ++v) {
        if (lives[v].first < 0) continue;
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
