// Random networks, run with every instruction set and compared with the reference: for sanitizers.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

extern "C" {
void* distlth_new(const char*, char*);
void distlth_delete(void*);
int distlth_convolution(void*, int, int, int, int, const int32_t*, float, float, char*);
int distlth_block(void*, int, const int32_t*, int, const int32_t*, int, const float*, const float*, char*);
int distlth_affine(void*, int, int, const float*, const float*, int, float, float, char*);
int distlth_pool(void*, int, int, const int32_t*, char*);
int distlth_mean(void*, int, int, int, char*);
int distlth_concatenation(void*, const int32_t*, int, char*);
int distlth_pad(void*, int, int, int, char*);
int distlth_flatten(void*, int, char*);
int distlth_size(void*, const int32_t*, int32_t*, char*);
int distlth_run(void*, const float*, int, const int32_t*, float*, int, char*);
}

namespace {

char error[256];

int checked(int result) {
    if (result < 0) std::fprintf(stderr, "%s\n", error), std::exit(1);
    return result;
}

struct Draw {
    std::mt19937 engine;
    int between(int least, int most) { return std::uniform_int_distribution<int>(least, most)(engine); }
    std::vector<float> floats(size_t count) {
        std::normal_distribution<float> normal;
        std::vector<float> found(count);
        for (float& x : found) x = normal(engine);
        return found;
    }
};

int convolution(void* network, Draw& draw, int in, int add, int from, int to, const int32_t* window) {
    const int made = checked(distlth_convolution(network, in, add, from, to, window, -3, 3, error));
    std::vector<int32_t> rows(to), columns;
    std::iota(rows.begin(), rows.end(), 0);
    std::shuffle(rows.begin(), rows.end(), draw.engine);
    for (int first = 0, count; first < to; first += count) {
        count = std::min(to - first, draw.between(1, 40));
        columns.clear();
        for (int k = 0; k < from * window[0] * window[1]; ++k)
            if (draw.between(0, 2)) columns.push_back(k);
        std::vector<float> weights = draw.floats(count * columns.size()), bias = draw.floats(count);
        for (float& weight : weights) weight /= std::sqrt(float(columns.size()) + 1);
        checked(distlth_block(network, made, rows.data() + first, count, columns.data(), int(columns.size()),
                              weights.data(), bias.data(), error));
    }
    return made;
}

// A residual network of random shapes; the same for the same seed.
void build(void* network, int seed, int channels) {
    Draw draw{std::mt19937(seed)};
    const int width = draw.between(1, 70);
    const int32_t point[] = {1, 1, 1, 1, 0, 0, 1, 1, 0}, same[] = {3, 3, 1, 1, 1, 1, 1, 1, 0};
    const int32_t any[] = {draw.between(1, 4), draw.between(1, 3), draw.between(1, 3), draw.between(1, 2),
                           draw.between(0, 3), draw.between(0, 2), draw.between(1, 2), draw.between(1, 2), 0};
    int stream = convolution(network, draw, 0, -1, channels, width, any);
    for (int block = draw.between(1, 2); block--;) {
        const int inner = draw.between(1, 30);
        const int first = convolution(network, draw, stream, -1, width, inner, block ? same : point);
        stream = convolution(network, draw, first, stream, inner, width, point);
    }
    const std::vector<float> scale = draw.floats(width), shift = draw.floats(width);
    const int normed =
        checked(distlth_affine(network, stream, stream, scale.data(), shift.data(), width, 0, 6, error));
    const int32_t window[] = {3, 2, 2, 2, 1, 1, 1, 1, draw.between(0, 1)};
    const int32_t pooled[] = {checked(distlth_pool(network, normed, 0, window, error)),
                              checked(distlth_pool(network, stream, 1 + draw.between(0, 1), window, error))};
    int value = checked(distlth_concatenation(network, pooled, 2, error));
    value = checked(distlth_pad(network, value, 1, 2, error));
    value = checked(distlth_mean(network, value, draw.between(1, 2), 1, error));
    checked(distlth_flatten(network, value, error));
}

std::vector<float> result(const char* isa, int seed) {
    Draw draw{std::mt19937(seed + 1)};
    void* network = distlth_new(isa, error);
    if (!network) return {};
    const int32_t size[] = {draw.between(1, 4), draw.between(6, 60), draw.between(6, 60)};
    int32_t out[3];
    build(network, seed, size[0]);
    const int images = draw.between(1, 5);
    const std::vector<float> in = draw.floats(size_t(images) * size[0] * size[1] * size[2]);
    checked(distlth_size(network, size, out, error));
    std::vector<float> found(size_t(images) * out[0] * out[1] * out[2]), other(found.size());
    std::thread second([&] {
        char own[256];
        checked(distlth_run(network, in.data(), images, size, other.data(), 2, own));
    });
    checked(distlth_run(network, in.data(), images, size, found.data(), 1, error));
    second.join();
    for (size_t i = 0; i < found.size(); ++i)
        if (found[i] != other[i]) std::fprintf(stderr, "threads differ\n"), std::exit(1);
    distlth_delete(network);
    return found;
}

}  // namespace

int main(int, char** arguments) {
    for (int seed = 0; seed < std::atoi(arguments[1]); ++seed) {
        const std::vector<float> wanted = result("portable", seed);
        for (const char* isa : {"avx2", "avx512"}) {
            const std::vector<float> found = result(isa, seed);
            for (size_t i = 0; i < found.size(); ++i)
                if (!(std::fabs(found[i] - wanted[i]) < 1e-4f))
                    std::fprintf(stderr, "%s differs with seed %d\n", isa, seed), std::exit(1);
        }
    }
}
