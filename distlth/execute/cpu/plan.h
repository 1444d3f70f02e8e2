// A network planned for one shape of input: where each value lies, and the steps that compute them.
//
// A value lies as channels x images x pixels, so that the pixels of all images of a chunk make one long row.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <vector>

#include "isa.h"

namespace distlth {

// What a caller did wrong, in a line.
struct Mistake : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct Size {
    int channels, height, width;
    int64_t pixels() const { return int64_t(height) * width; }
    int64_t entries() const { return channels * pixels(); }
};

// One pass over a chunk of images.
struct Call {
    float* arena;
    const float* in;  // of image 0
    float* out;
    int image;  // the first of the chunk
};

// Where a value lies.
struct Tensor {
    enum class Place { ARENA, INPUT, OUTPUT };
    Place place;
    Size size;
    int64_t offset;          // in the arena, in floats
    int64_t channel_stride;  // in floats
    int64_t image_stride;
    bool whole;  // it holds all images, not just those of a chunk

    const float* read(const Call& call) const {
        return place == Place::INPUT ? call.in + call.image * image_stride : write(call);
    }
    float* write(const Call& call) const {
        float* base = place == Place::OUTPUT ? call.out : call.arena + offset;
        return base + (whole ? call.image * image_stride : 0);
    }
    // Some of its channels.
    Tensor part(int first, int count) const {
        Tensor tensor = *this;
        tensor.size.channels = count;
        tensor.offset += first * channel_stride;
        return tensor;
    }
};

// What computes one value: tasks that threads may run in any order.
class Step {
   public:
    virtual ~Step() = default;
    virtual int tasks() const = 0;
    virtual void run(int task, const Call& call) const = 0;
};

// A step whose result at a pixel depends on that pixel alone; it computes tiles of pixels one by one.
class PixelStep : public Step {
   public:
    virtual int tiles() const = 0;
    virtual void run_tiles(int first, int last, const Call& call) const = 0;
};

constexpr int INPUT = 0, OUTPUT = 1;  // the values that are not in the arena

// A step before it is known where its values lie.
struct Draft {
    std::vector<int> reads;
    int writes;
    bool is_pixelwise;  // it makes a PixelStep
    int over;           // the value whose place the result may take, entry by entry; -1: none
    // Makes the step from where values lie, and the number of images of a chunk.
    std::function<std::unique_ptr<Step>(const std::vector<Tensor>&, int images)> make;
};

class Plan {
   public:
    // `values` has the sizes, those of INPUT and OUTPUT first; `drafts` are in the order of computation.
    Plan(const std::vector<Size>& values, const std::vector<Draft>& drafts, int images);

    int64_t arena_floats() const { return arena_floats_; }
    // Safe to call from several threads, with an arena each.
    void run(const float* in, float* out, float* arena, int threads) const;

   private:
    struct Phase {
        int chunk;        // images at a time
        int first, last;  // drafts
        std::vector<std::unique_ptr<Step>> steps;
    };
    // When a value is first written and last read, as indices of drafts.
    struct Life {
        int first = -1, last = -1;
        int chunk = 0;  // images that it holds
        int home = -1;  // the value whose place it takes, or itself
    };
    void divide(const std::vector<Size>& values, const std::vector<Draft>& drafts);
    void join(const std::vector<Size>& values, const std::vector<Draft>& drafts);
    std::vector<Tensor> place(const std::vector<Size>& values, const std::vector<Draft>& drafts);
    std::vector<Life> lives(const std::vector<Draft>& drafts, int num_values) const;
    void share(const std::vector<Draft>& drafts, std::vector<Life>& lives) const;
    void allocate(const std::vector<Life>& lives, std::vector<Tensor>& tensors);
    std::unique_ptr<Step> together(const std::vector<Draft>& drafts, const std::vector<Tensor>& tensors,
                                   int first, int chunk) const;

    int images_;
    int64_t arena_floats_ = 0;
    std::vector<Phase> phases_;
    std::vector<int> ends_;  // of each draft: the first one behind those that it is computed together with
};

}  // namespace distlth
