// float32 arrays as .npy files: `numpy.load("a.npy")`.
#pragma once

#include <cstdint>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

inline void write_npy(const std::string& path, const float* values, const std::vector<int64_t>& shape) {
  std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (";
  int64_t count = 1;
  for (int64_t size : shape) {
    header += std::to_string(size) + ",";
    count *= size;
  }
  header += "), }";
  header.append(63 - (10 + header.size()) % 64, ' ');
  header += '\n';
  std::ofstream file(path, std::ios::binary);
  file << "\x93NUMPY\x01" << '\0' << static_cast<char>(header.size() & 255) << static_cast<char>(header.size() >> 8) << header;
  file.write(reinterpret_cast<const char*>(values), static_cast<std::streamsize>(sizeof(float) * static_cast<size_t>(count)));
  file.close();
  if (!file) throw std::runtime_error(path + ": cannot be written");
}
