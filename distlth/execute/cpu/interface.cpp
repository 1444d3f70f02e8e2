// The C interface. A function that fails returns -1 (or null) and writes a line into `error`.
#include <algorithm>
#include <cstring>
#include <exception>

#include "network.h"

using namespace distlth;

namespace {

constexpr size_t ERROR_BYTES = 256;

template <class F>
auto guarded(char* error, F f) -> decltype(f()) {
    try {
        return f();
    } catch (const std::exception& exception) {
        std::strncpy(error, exception.what(), ERROR_BYTES - 1);
        error[ERROR_BYTES - 1] = 0;
        return decltype(f())(-1);
    }
}

Network& network(void* handle) { return *static_cast<Network*>(handle); }

Window window(const int32_t* numbers) {
    return {numbers[0], numbers[1], numbers[2], numbers[3], numbers[4],
            numbers[5], numbers[6], numbers[7], numbers[8] != 0};
}

std::vector<float> floats(const float* first, int count) {
    return first ? std::vector<float>(first, first + count) : std::vector<float>();
}

}  // namespace

extern "C" {

void* distlth_new(const char* isa, char* error) {
    try {
        return new Network(isa);
    } catch (const std::exception& exception) {
        guarded(error, [&]() -> int { throw Mistake(exception.what()); });
        return nullptr;
    }
}

void distlth_delete(void* handle) { delete static_cast<Network*>(handle); }

const char* distlth_isa(void* handle) { return network(handle).isa().name; }

// `add` is an operator or -1; `numbers` are those of Window in order.
int distlth_convolution(void* handle, int in, int add, int in_channels, int out_channels,
                        const int32_t* numbers, float low, float high, char* error) {
    return guarded(error, [&] {
        std::vector<int> inputs{in};
        if (add >= 0) inputs.push_back(add);
        return network(handle).add(std::make_unique<Convolution>(std::move(inputs), in_channels, out_channels,
                                                                 window(numbers), Range{low, high}));
    });
}

int distlth_block(void* handle, int convolution, const int32_t* rows, int num_rows, const int32_t* columns,
                  int num_columns, const float* weights, const float* bias, char* error) {
    return guarded(error, [&] {
        auto& made = dynamic_cast<Convolution&>(network(handle).at(convolution));
        made.block(network(handle).isa(), rows, num_rows, columns, num_columns, weights, bias);
        return 0;
    });
}

int distlth_affine(void* handle, int in, int add, const float* scale, const float* shift, int channels,
                   float low, float high, char* error) {
    return guarded(error, [&] {
        return network(handle).add(
            affine(in, add, floats(scale, channels), floats(shift, channels), Range{low, high}));
    });
}

// `kind`: 0 max, 1 mean of what lies in the image, 2 mean with the padding.
int distlth_pool(void* handle, int in, int kind, const int32_t* numbers, char* error) {
    return guarded(error, [&] { return network(handle).add(pool(in, Pooling(kind), window(numbers))); });
}

int distlth_mean(void* handle, int in, int height, int width, char* error) {
    return guarded(error, [&] { return network(handle).add(mean(in, height, width)); });
}

int distlth_concatenation(void* handle, const int32_t* inputs, int count, char* error) {
    return guarded(error, [&] { return network(handle).add(concatenation({inputs, inputs + count})); });
}

int distlth_pad(void* handle, int in, int before, int after, char* error) {
    return guarded(error, [&] { return network(handle).add(pad(in, before, after)); });
}

int distlth_flatten(void* handle, int in, char* error) {
    return guarded(error, [&] { return network(handle).add(flatten(in)); });
}

// Writes the channels, height and width of the result for images of this size.
int distlth_size(void* handle, const int32_t* in, int32_t* out, char* error) {
    return guarded(error, [&] {
        const Size size = network(handle).size({in[0], in[1], in[2]});
        out[0] = size.channels, out[1] = size.height, out[2] = size.width;
        return 0;
    });
}

int distlth_run(void* handle, const float* in, int images, const int32_t* size, float* out, int threads,
                char* error) {
    return guarded(error, [&] {
        network(handle).run(in, images, {size[0], size[1], size[2]}, out, std::max(1, threads));
        return 0;
    });
}

}  // extern "C"
