#include "segments.h"

#include <cstring>

#include "markers.h"

namespace distlth::jpeg {

Status find_segments(const uint8_t* data, size_t bytes, size_t scan, size_t count,
                     std::vector<Segment>& segments) {
    segments.clear();
    for (size_t begin = scan, at = scan; at + 1 < bytes;) {
        const void* found = std::memchr(data + at, 0xFF, bytes - 1 - at);
        if (!found) break;
        const size_t end = static_cast<const uint8_t*>(found) - data;
        at = end + 1;
        if (data[at] == 0) continue;                      // a byte of data
        while (at + 1 < bytes && data[at] == 0xFF) ++at;  // fill bytes
        const int marker = data[at++];
        segments.push_back({begin, end});
        begin = at;
        if (marker == EOI) return segments.size() == count ? Status::decoded : Status::damaged;
        if (marker == SOS || marker == DNL) return Status::other_kind;
        if (!is_restart(marker) || segments.size() == count) return Status::damaged;
        if (marker != RST0 + int((segments.size() - 1) % 8)) return Status::damaged;
    }
    return Status::damaged;
}

}  // namespace distlth::jpeg
