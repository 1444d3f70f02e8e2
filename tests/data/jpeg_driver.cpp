// A C interface to the decoder of baseline JPEGs, for tests.

#include <time.h>

#include <cstring>
#include <memory>

#include "decode.h"

using namespace distlth::jpeg;

extern "C" {

int has_fast_instructions() { return has_avx2(); }

void* new_decoder(int is_portable) {
    return new Baseline(is_portable ? Instructions::portable : Instructions::best);
}

void delete_decoder(void* decoder) { delete static_cast<Baseline*>(decoder); }

// crop: top, left, height and width.
int decode(void* decoder, const uint8_t* data, size_t bytes, int height, int width, const int* crop,
           Planes* planes) {
    const Crop wanted{crop[0], crop[1], crop[2], crop[3]};
    return int(static_cast<Baseline*>(decoder)->decode(data, bytes, height, width, wanted, *planes));
}

// Return the nanoseconds of this thread that `count` calls take.
int64_t time_decode(void* decoder, const uint8_t* data, size_t bytes, int height, int width, const int* crops,
                    int count) {
    Planes planes;
    timespec begin, end;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &begin);
    for (int i = 0; i < count; ++i)
        if (decode(decoder, data, bytes, height, width, crops + 4 * i, &planes)) return -1;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &end);
    return (end.tv_sec - begin.tv_sec) * 1'000'000'000LL + end.tv_nsec - begin.tv_nsec;
}

}  // extern "C"
