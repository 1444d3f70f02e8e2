#include "decode.h"

#include <algorithm>
#include <memory>

#include "segments.h"
#include "zigzag.h"

namespace distlth::jpeg {
namespace {

constexpr int MARGIN = 2;       // luma pixels around a crop: as far as upsampled chroma looks
constexpr int ROWS_BEYOND = 8;  // of a plane that may be read: see Planes
constexpr int BYTES_BEYOND = 64;
constexpr int ALIGNMENT = 64;  // bytes

int rounded_up(int value, int divisor) { return (value + divisor - 1) / divisor; }

uint8_t* at_least(std::vector<uint8_t>& buffer, size_t bytes) {
    if (buffer.size() < bytes) buffer.resize(bytes + bytes / 2);
    return buffer.data();
}

// Return the MCUs of `side` pixels that hold the pixels from first on, and those around them.
Range wanted(int first, int count, int whole, int side) {
    const int from = std::clamp(first - MARGIN, 0, whole - 1) / side;
    const int to = rounded_up(std::clamp(first + count + MARGIN, 1, whole), side);
    return {from, std::max(to, from + 1)};
}

void list_blocks(const Header& header, Scan& scan) {
    for (int i = 0; i < header.vertical; ++i)
        for (int j = 0; j < header.horizontal; ++j)
            scan.blocks[scan.num_blocks++] = {0, i * BLOCK_SIDE, j * BLOCK_SIDE};
    for (int i = 1; i < COMPONENTS; ++i) scan.blocks[scan.num_blocks++] = {i, 0, 0};
}

void dequantise_by(const uint8_t* steps, Quantisation& quantisation) {
    for (int i = 0; i < BLOCK_SIZE; ++i) {
        quantisation.steps[ZIGZAG.place[i]] = steps[i];
        quantisation.limits[ZIGZAG.place[i]] = int16_t(LARGEST / steps[i]);
    }
}

Planes planes_of(const Header& header, const Scan& scan) {
    Planes planes{};
    for (int i = 0; i < COMPONENTS; ++i) {
        planes.plane[i] = scan.components[i].plane;
        planes.stride[i] = scan.components[i].stride;
    }
    planes.top = scan.wanted_rows.first * scan.components[0].height;
    planes.left = scan.wanted_columns.first * scan.components[0].width;
    planes.image_height = header.height;
    planes.image_width = header.width;
    planes.horizontal = header.horizontal;
    planes.vertical = header.vertical;
    return planes;
}

}  // namespace

Baseline::Baseline(Instructions instructions) : is_fast_(instructions == Instructions::best && has_avx2()) {}

// Return whether the tables that the components name are valid.
bool Baseline::build_tables(const Header& header, Scan& scan) {
    for (int i = 0; i < COMPONENTS; ++i) {
        const Selectors& tables = header.components[i];
        HuffmanTable& dc = dc_[tables.dc];
        HuffmanTable& ac = ac_[tables.ac];
        if (!dc.build(header.dc[tables.dc], Class::dc) || !ac.build(header.ac[tables.ac], Class::ac))
            return false;
        dequantise_by(header.quantisation[tables.quantisation], quantisation_[i]);
        scan.components[i].dc = &dc;
        scan.components[i].ac = &ac;
        scan.components[i].quantisation = &quantisation_[i];
    }
    return true;
}

void Baseline::lay_out_planes(const Header& header, Scan& scan) {
    for (int i = 0; i < COMPONENTS; ++i) {
        Component& component = scan.components[i];
        component.width = BLOCK_SIDE * (i ? 1 : header.horizontal);
        component.height = BLOCK_SIDE * (i ? 1 : header.vertical);
        const int width = (scan.wanted_columns.end - scan.wanted_columns.first) * component.width;
        const int height = (scan.wanted_rows.end - scan.wanted_rows.first) * component.height;
        component.stride = rounded_up(width, ALIGNMENT) * ALIGNMENT;
        const size_t bytes = component.stride * size_t(height + ROWS_BEYOND) + BYTES_BEYOND + ALIGNMENT;
        void* plane = at_least(planes_[i], bytes);
        size_t space = bytes;
        component.plane = static_cast<uint8_t*>(std::align(ALIGNMENT, 1, plane, space));
    }
}

void Baseline::find_buffers(Scan& scan) {
    size_t longest = 0;
    for (const Segment& segment : segments_) longest = std::max(longest, segment.end - segment.begin);
    for (int i = 0; i < STREAMS; ++i) scan.buffers[i] = at_least(buffers_[i], longest + SPARE);
}

Status Baseline::decode(const uint8_t* data, size_t bytes, int height, int width, const Crop& crop,
                        Planes& planes) {
    Header header;
    if (const Status status = read_header(data, bytes, header); status != Status::decoded) return status;
    if (header.height != height || header.width != width) return Status::damaged;

    Scan scan{};
    const int mcu_height = BLOCK_SIDE * header.vertical, mcu_width = BLOCK_SIDE * header.horizontal;
    scan.rows = rounded_up(height, mcu_height);
    scan.columns = rounded_up(width, mcu_width);
    scan.wanted_rows = wanted(crop.top, crop.height, height, mcu_height);
    scan.wanted_columns = wanted(crop.left, crop.width, width, mcu_width);
    const int mcus = scan.rows * scan.columns;
    scan.interval = header.restart_interval ? header.restart_interval : mcus;
    scan.num_segments = rounded_up(mcus, scan.interval);
    const Status status = find_segments(data, bytes, header.scan, scan.num_segments, segments_);
    if (status != Status::decoded) return status;
    scan.data = data;
    scan.segments = segments_.data();

    if (!build_tables(header, scan)) return Status::damaged;
    list_blocks(header, scan);
    lay_out_planes(header, scan);
    find_buffers(scan);
    planes = planes_of(header, scan);
    return is_fast_ ? decode_scan_avx2(scan) : decode_scan_portable(scan);
}

}  // namespace distlth::jpeg
