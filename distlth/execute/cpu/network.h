// A network of operators on values, for any image size: what the interface builds and runs.
#pragma once
#include <list>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "plan.h"
#include "steps.h"

namespace distlth {

// The values and drafts of a plan that is being made.
class Drafts {
   public:
    std::vector<Size> values;
    std::vector<Draft> drafts;

    int value(Size size) {
        values.push_back(size);
        return int(values.size()) - 1;
    }
    template <class Make>
    void add(std::vector<int> reads, int writes, Make make, bool is_pixelwise = false, int over = -1) {
        drafts.push_back({std::move(reads), writes, is_pixelwise, over, std::move(make)});
    }
};

// An operator that reads earlier operators' results: `inputs` are their numbers.
class Operator {
   public:
    std::vector<int> inputs;

    explicit Operator(std::vector<int> inputs) : inputs(std::move(inputs)) {}
    virtual ~Operator() = default;
    virtual Size size(const Isa& isa, const std::vector<Size>& read) const = 0;
    // Append the steps that compute the value `out` from the values `read`.
    virtual void draft(const Isa& isa, Drafts& drafts, const std::vector<int>& read, int out) const = 0;
};

class Convolution : public Operator {
   public:
    // The second input, if there is one, is added to the sums before they are clamped.
    Convolution(std::vector<int> inputs, int in_channels, int out_channels, Window window, Range range);
    // Append a block; columns count as in the weight: input channel, tap. `weights` is rows x columns.
    void block(const Isa& isa, const int32_t* rows, int num_rows, const int32_t* columns, int num_columns,
               const float* weights, const float* bias);
    Size size(const Isa& isa, const std::vector<Size>& read) const override;
    void draft(const Isa& isa, Drafts& drafts, const std::vector<int>& read, int out) const override;

   private:
    bool in_place(Size in, Size out) const;
    bool by_phases(Size in, Size out) const;
    int copied(const Isa& isa, Drafts& drafts, int in, Size out, std::vector<Shift> shifts, int stride_y,
               int stride_x) const;

    int in_channels_, out_channels_;
    Window window_;
    Range range_;
    std::vector<bool> has_row_;
    std::vector<Block> blocks_;
};

class Network {
   public:
    explicit Network(const std::string& isa);
    ~Network();

    const Isa& isa() const { return *isa_; }
    int add(std::unique_ptr<Operator> made);
    Operator& at(int index);
    // The size of the last operator's result.
    Size size(Size in) const;
    // Computes images x channels x height x width numbers; may be called from several threads at once.
    void run(const float* in, int images, Size size, float* out, int threads) const;

   private:
    struct Planned {
        int images;
        Size size;
        std::shared_ptr<const Plan> plan;
    };

    std::vector<Size> sizes(Size in) const;
    std::shared_ptr<const Plan> plan(int images, Size in) const;
    std::unique_ptr<Plan> make(int images, Size in) const;

    const Isa* isa_;
    std::vector<std::unique_ptr<Operator>> operators_;  // number 0, the input, is none: null
    mutable std::mutex mutex_;
    mutable std::list<Planned> plans_;  // last used first
    class Memory;
    mutable std::vector<std::unique_ptr<Memory>> idle_;
};

std::unique_ptr<Operator> affine(int in, int add, std::vector<float> scale, std::vector<float> shift,
                                 Range range);
std::unique_ptr<Operator> pool(int in, Pooling kind, Window window);
std::unique_ptr<Operator> mean(int in, int height, int width);
std::unique_ptr<Operator> concatenation(std::vector<int> inputs);
std::unique_ptr<Operator> pad(int in, int before, int after);
std::unique_ptr<Operator> flatten(int in);

}  // namespace distlth
