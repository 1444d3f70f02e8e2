// Stands in for OpenCV's umbrella header, which includes modules that FFCV does not use.
#pragma once
#include <opencv2/core.hpp>
#include <opencv2/imgproc.hpp>
