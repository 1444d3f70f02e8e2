// Finding the markers in a scan.
#pragma once

#include <vector>

#include "scan.h"

namespace distlth::jpeg {

// Find the segments of the scan that begins at a byte: `count` of them, restart markers in order between
// them, and EOI after the last.
Status find_segments(const uint8_t* data, size_t bytes, size_t scan, size_t count,
                     std::vector<Segment>& segments);

}  // namespace distlth::jpeg
