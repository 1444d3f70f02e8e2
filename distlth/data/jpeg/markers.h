// The markers of a JPEG: the byte after 0xFF.
#pragma once

namespace distlth::jpeg {

enum Marker : int {
    TEM = 0x01,
    SOF0 = 0xC0,  // start of a baseline frame
    DHT = 0xC4,
    SOF15 = 0xCF,  // from SOF0 to here: frames of all kinds, DHT, and the tables of arithmetic coding
    RST0 = 0xD0,
    RST7 = 0xD7,
    SOI = 0xD8,
    EOI = 0xD9,
    SOS = 0xDA,
    DQT = 0xDB,
    DNL = 0xDC,
    DRI = 0xDD,
    DHP = 0xDE,
    EXP = 0xDF,
    APP0 = 0xE0,
    APP14 = 0xEE,
    APP15 = 0xEF,
    COM = 0xFE,
};

constexpr bool is_restart(int marker) { return marker >= RST0 && marker <= RST7; }
constexpr bool has_length(int marker) {
    return marker > TEM && marker != 0xFF && !is_restart(marker) && marker != SOI && marker != EOI;
}
// Progressive, lossless, hierarchical or arithmetic coding, 12 bits, or a height that follows the scan.
constexpr bool is_of_other_kinds(int marker) {
    return (marker > SOF0 && marker <= SOF15 && marker != DHT) || marker == DNL || marker == DHP ||
           marker == EXP;
}

}  // namespace distlth::jpeg
