// Memory that grows and is reused. Its content is lost when it grows, and never set to anything.
#pragma once

#include <cstddef>
#include <memory>

namespace distlth::jpeg {

template <class T>
class Buffer {
public:
    // Room for `count` values; what was there before need not be.
    T* take(size_t count) {
        if (count > size_) {
            data_.reset();
            size_ = 0;
            data_.reset(new T[count]);
            size_ = count;
        }
        return data_.get();
    }

    T* get() { return data_.get(); }
    const T* get() const { return data_.get(); }

private:
    std::unique_ptr<T[]> data_;
    size_t size_ = 0;
};

}  // namespace distlth::jpeg
