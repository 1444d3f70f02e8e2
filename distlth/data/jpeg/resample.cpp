#include "resample.h"

#include <algorithm>
#include <cstring>

namespace distlth::jpeg {

namespace {

int round_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }

// Walks along one axis: of each output, which pixels it covers and how much of each (its share). The shares of an output
// add up to the crop's length.
class Shares {
public:
    Shares(const AxisCrop& crop, uint32_t* shares) : crop_(crop), shares_(shares) {}

    // So many pixels at most are under one output.
    static int most(const AxisCrop& crop) {
        if (!crop.by_area) return 2;
        const int whole = crop.length / crop.outputs;
        return crop.length % crop.outputs ? whole + 2 : whole;
    }

    // Goes on to the next output; returns how many pixels it has, from first() on.
    int next() {
        first_ = pixel_;
        const int count = crop_.by_area ? cover() : interpolate();
        ++output_;
        return count;
    }

    int first() const { return crop_.begin + first_; }

private:
    // In units of 1/outputs of a pixel, an output is `length` long and a pixel `outputs`.
    int cover() {
        int left = crop_.length, count = 0;
        while (left > 0) {
            const int share = std::min(crop_.outputs - part_, left);
            shares_[count++] = uint32_t(share);
            left -= share;
            part_ += share;
            if (part_ == crop_.outputs) part_ = 0, ++pixel_;
        }
        return count;
    }

    // OpenCV's weights in area mode: pixels are as wide as outputs allow, and only their borders are interpolated.
    int interpolate() {
        const int64_t past = int64_t(output_ + 1) * crop_.length - int64_t(pixel_ + 1) * crop_.outputs;
        const bool is_last = pixel_ >= crop_.length - 1;
        const auto share = is_last || past <= 0 ? 0u : uint32_t(past);
        shares_[0] = uint32_t(crop_.length) - share;
        shares_[1] = share;
        part_ += crop_.length;
        pixel_ += part_ / crop_.outputs;
        part_ %= crop_.outputs;
        return share ? 2 : 1;
    }

    const AxisCrop& crop_;
    uint32_t* shares_;
    int output_ = 0, pixel_ = 0, part_ = 0, first_ = 0;
};

// So many samples of a plane are under `pixels` pixels next to each other.
constexpr int most_samples(int pixels, int step) {
    return step == 1 ? pixels : step == 2 ? pixels / 2 + 2 : (pixels + step - 2) / step + 1;
}

// Hands the shares of pixels on to the samples that they are made of; returns how many samples these are.
//
// With two pixels for each sample (STEP), a pixel is 3/4 its own sample and 1/4 the nearest other one, as libjpeg
// interpolates; otherwise it is its own.
template <int STEP>
int hand_on(const uint32_t* shares, int pixel, int count, int samples, int& first, uint32_t* sums) {
    constexpr bool is_triangle = STEP == 2;
    first = std::max(0, is_triangle ? (pixel - 1) >> 1 : pixel / STEP);
    std::fill_n(sums, most_samples(count, STEP), 0u);
    int last = first;
    for (int i = 0; i < count; ++i) {
        const int own = int(unsigned(pixel + i) / STEP);
        sums[own - first] += is_triangle ? 3 * shares[i] : shares[i];
        last = own;
        if constexpr (is_triangle) {
            const int other = std::clamp((pixel + i) & 1 ? own + 1 : own - 1, 0, samples - 1);
            sums[other - first] += shares[i];
            last = std::max(own, other);
        }
    }
    return last - first + 1;
}

// Makes shares of `total` weights whose sum is WEIGHT_SUM exactly: each is the difference of two rounded sums.
class Weigher {
public:
    explicit Weigher(int64_t total) : factor_((int64_t(WEIGHT_SUM) << 32) / total) {}

    void write(const uint32_t* shares, int count, int16_t* weights, int taps) const {
        int64_t sum = 0, before = 0;
        for (int i = 0; i < count; ++i) {
            sum += shares[i];
            const int64_t until = (sum * factor_ + (int64_t(1) << 31)) >> 32;
            weights[i] = int16_t(until - before);
            before = until;
        }
        std::fill(weights + count, weights + taps, int16_t(0));
    }

private:
    int64_t factor_;
};

// As `Kernels::vertical`, for any number of rows: rounded once.
void many_rows(const uint8_t* rows, ptrdiff_t stride, const int16_t* weights, int taps, int width,
               uint8_t* out) {
    for (int x = 0; x < width; ++x) {
        int sum = 1 << (WEIGHT_BITS - 1);
        for (int i = 0; i < taps; ++i) sum += weights[i] * rows[i * stride + x];
        out[x] = uint8_t(sum >> WEIGHT_BITS);
    }
}

void interleave(const uint8_t* red, const uint8_t* green, const uint8_t* blue, int count, uint8_t* rgb) {
    for (int x = 0; x < count; ++x, rgb += 3) rgb[0] = red[x], rgb[1] = green[x], rgb[2] = blue[x];
}

}  // namespace

const Axis& AxisMaker::make(const AxisCrop& crop, const AxisPlane& plane) {
    const int samples = most_samples(Shares::most(crop), plane.step);
    // The windows of 16 samples for four outputs (`Axis::windows`) must not be left.
    const bool is_near = 3 * int64_t(crop.length) <= 11 * int64_t(crop.outputs) * plane.step;
    const int taps = samples <= FEW_TAPS && is_near ? FEW_TAPS : round_up(samples, MANY_TAPS);
    const int padded = round_up(crop.outputs, OUTPUTS);
    int32_t* first = first_.take(size_t(padded));
    int16_t* weights = weights_.take(size_t(padded) * size_t(taps));
    shares_.take(size_t(Shares::most(crop)));
    sums_.take(size_t(samples));
    if (plane.step == 1)
        fill<1>(crop, plane, taps);
    else if (plane.step == 2)
        fill<2>(crop, plane, taps);
    else
        fill<4>(crop, plane, taps);
    std::fill(first + crop.outputs, first + padded, first[crop.outputs - 1]);
    std::fill(weights + ptrdiff_t(crop.outputs) * taps, weights + ptrdiff_t(padded) * taps, int16_t(0));
    axis_ = {crop.outputs, taps, first, weights, nullptr, nullptr};
    if (taps == FEW_TAPS) place_windows(padded);
    return axis_;
}

template <int STEP>
void AxisMaker::fill(const AxisCrop& crop, const AxisPlane& plane, int taps) {
    const Weigher weigher(int64_t(crop.length) * (STEP == 2 ? 4 : 1));
    Shares shares(crop, shares_.get());
    begin_ = plane.samples, end_ = 0;
    for (int o = 0; o < crop.outputs; ++o) {
        const int count = shares.next();
        int sample;
        const int used = hand_on<STEP>(shares_.get(), shares.first(), count, plane.samples, sample, sums_.get());
        const int to = crop.is_mirrored ? crop.outputs - 1 - o : o;
        weigher.write(sums_.get(), used, weights_.get() + ptrdiff_t(to) * taps, taps);
        first_.get()[to] = sample - plane.origin;
        begin_ = std::min(begin_, sample - plane.origin);
        end_ = std::max(end_, sample - plane.origin + used);
    }
}

void AxisMaker::place_windows(int padded) {
    int32_t* windows = windows_.take(size_t(padded) / 4);
    uint64_t* places = places_.take(size_t(padded));
    for (int o = 0; o < padded; o += 4) {
        const int32_t* first = axis_.first + o;
        windows[o / 4] = std::min(first[0], first[3]);  // they decrease where the image is mirrored
        for (int i = 0; i < 4; ++i)
            places[o + i] = 0x8003800280018000u + 0x0001000100010001u * uint64_t(first[i] - windows[o / 4]);
    }
    axis_.windows = windows;
    axis_.places = places;
}

void Resampler::make_axes(Direction& direction, const Planes& planes, const Crop& crop, bool is_mirrored,
                          int resolution, bool is_chroma) {
    const bool by_area = crop.height >= resolution && crop.width >= resolution;
    const int down = is_chroma ? planes.vertical : 1, right = is_chroma ? planes.horizontal : 1;
    direction.rows = direction.down.make(
        {crop.top, crop.height, resolution, by_area, false},
        {down, planes.top / down, (planes.image_height + down - 1) / down});
    direction.columns = direction.right.make(
        {crop.left, crop.width, resolution, by_area, is_mirrored},
        {right, planes.left / right, (planes.image_width + right - 1) / right});
}

void Resampler::resample_row(const uint8_t* plane, ptrdiff_t stride, const Direction& direction, int row,
                             const Kernels& kernels, uint8_t* out) {
    const int begin = direction.right.begin(), width = direction.right.end() - begin;
    const int16_t* weights = direction.rows.weights + ptrdiff_t(row) * direction.rows.taps;
    int taps = direction.rows.taps;
    while (taps > 1 && weights[taps - 1] == 0) --taps;
    const uint8_t* rows = plane + direction.rows.first[row] * stride + begin;
    (taps <= MAX_ROWS ? kernels.vertical : many_rows)(rows, stride, weights, taps, width, row_.get() + begin);
    kernels.horizontal(direction.columns, row_.get(), out);
}

void Resampler::resample(const Planes& planes, const Crop& crop, bool is_mirrored, int resolution,
                         const Kernels& kernels, uint8_t* rgb) {
    make_axes(luma_, planes, crop, is_mirrored, resolution, false);
    if (!planes.is_grey) make_axes(chroma_, planes, crop, is_mirrored, resolution, true);
    const int widest = std::max(luma_.right.end(), planes.is_grey ? 0 : chroma_.right.end());
    row_.take(size_t(widest) + 2 * SLACK + size_t(luma_.columns.taps));
    for (auto& colour : colours_) colour.take(size_t(resolution) + SLACK);
    for (int y = 0; y < resolution; ++y, rgb += 3 * ptrdiff_t(resolution)) {
        for (int c = 0; c < (planes.is_grey ? 1 : 3); ++c)
            resample_row(planes.plane[c], planes.stride[c], c ? chroma_ : luma_, y, kernels, colours_[c].get());
        const uint8_t *first = colours_[0].get(), *second = colours_[1].get(), *third = colours_[2].get();
        if (planes.is_grey)
            interleave(first, first, first, resolution, rgb);
        else
            (planes.is_rgb ? interleave : kernels.colour)(first, second, third, resolution, rgb);
    }
}

const Kernels* kernels(const char* instructions) {
    if (instructions && !std::strcmp(instructions, "portable")) return portable_kernels();
    const Kernels* fastest = avx2_kernels();
    return fastest || instructions ? fastest : portable_kernels();
}

}  // namespace distlth::jpeg
