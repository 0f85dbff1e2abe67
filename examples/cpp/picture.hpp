// Pictures as binary PGM (P5, grey) and PPM (P6, RGB) files of 8 bits: `convert a.jpg a.ppm`, or
// Pillow's `Image.open("a.jpg").convert("RGB").save("a.ppm")`.
#pragma once

#include <cctype>
#include <cstdint>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

struct Picture {
  int64_t height, width, channels;
  std::vector<uint8_t> pixels;  // row by row, the channels of a pixel next to each other
};

// The next number of the header. Comments begin with # and end with the line.
inline int64_t header_number(std::istream& file, const std::string& path) {
  int byte = file.get();
  while (byte == '#' || std::isspace(byte)) {
    if (byte == '#')
      while (byte != '\n' && byte != EOF) byte = file.get();
    byte = file.get();
  }
  int64_t value = 0;
  if (!std::isdigit(byte)) throw std::runtime_error(path + ": the header of the picture is damaged");
  for (; std::isdigit(byte); byte = file.get()) {
    value = value * 10 + (byte - '0');
    if (value > 1 << 16) throw std::runtime_error(path + ": a number in the header is over 65536");
  }
  return value;  // one byte of white space has been read after it
}

inline Picture read_picture(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + ": cannot be opened");
  char kind[2] = {};
  file.read(kind, 2);
  if (kind[0] != 'P' || (kind[1] != '5' && kind[1] != '6'))
    throw std::runtime_error(path + ": neither a binary PGM (P5) nor a binary PPM (P6) file");
  Picture picture;
  picture.channels = kind[1] == '5' ? 1 : 3;
  picture.width = header_number(file, path);
  picture.height = header_number(file, path);
  if (header_number(file, path) != 255)
    throw std::runtime_error(path + ": has not 8 bits per channel (the largest value is not 255)");
  if (picture.width * picture.height == 0) throw std::runtime_error(path + ": has no pixels");
  if (picture.width * picture.height > 178956970)  // the limit of Pillow
    throw std::runtime_error(path + ": has more than 178956970 pixels");
  picture.pixels.resize(static_cast<size_t>(picture.height * picture.width * picture.channels));
  file.read(reinterpret_cast<char*>(picture.pixels.data()), static_cast<std::streamsize>(picture.pixels.size()));
  if (static_cast<size_t>(file.gcount()) != picture.pixels.size())
    throw std::runtime_error(path + ": the file ends before the last pixel");
  return picture;
}

// Values from 0 to 1 as a grey picture.
inline void write_pgm(const std::string& path, const float* values, int64_t height, int64_t width) {
  std::ofstream file(path, std::ios::binary);
  file << "P5\n" << width << ' ' << height << "\n255\n";
  for (int64_t i = 0; i < height * width; i++) file.put(static_cast<char>(static_cast<int>(values[i] * 255 + 0.5f)));
  file.close();
  if (!file) throw std::runtime_error(path + ": cannot be written");
}
