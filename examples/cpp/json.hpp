// A reader of JSON (RFC 8259), enough for the card of a layertap file. With a JSON library at hand,
// use that.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

struct Json {
  enum Kind { null, boolean, number, string, list, object } kind = null;
  double value = 0;  // of a number; 1 for true
  std::string text;  // of a string, in UTF-8
  std::vector<Json> items;
  std::map<std::string, Json> members;

  // A member of an object; null where there is none, which is the same in a card.
  const Json& operator[](const std::string& key) const {
    static const Json missing;
    auto found = members.find(key);
    return found == members.end() ? missing : found->second;
  }
};

class JsonReader {
 public:
  explicit JsonReader(std::string source) : source(std::move(source)) {}

  Json read() {
    Json found = element(0);
    space();
    if (at != source.size()) fail();
    return found;
  }

 private:
  std::string source;
  size_t at = 0;

  [[noreturn]] void fail() const {
    throw std::runtime_error("the card is not JSON, at byte " + std::to_string(at));
  }
  void space() {
    while (at < source.size() && std::string(" \t\r\n").find(source[at]) != std::string::npos) at++;
  }
  bool take(const std::string& token) {
    if (source.compare(at, token.size(), token) != 0) return false;
    at += token.size();
    return true;
  }
  void need(const std::string& token) {
    space();
    if (!take(token)) fail();
  }

  Json element(int depth) {
    if (depth > 100) fail();
    space();
    Json found;
    if (take("{")) {
      found.kind = Json::object;
      space();
      if (take("}")) return found;
      do {
        space();
        std::string key = text();
        need(":");
        found.members[key] = element(depth + 1);
        space();
      } while (take(","));
      need("}");
    } else if (take("[")) {
      found.kind = Json::list;
      space();
      if (take("]")) return found;
      do {
        found.items.push_back(element(depth + 1));
        space();
      } while (take(","));
      need("]");
    } else if (at < source.size() && source[at] == '"') {
      found.kind = Json::string;
      found.text = text();
    } else if (take("true")) {
      found.kind = Json::boolean;
      found.value = 1;
    } else if (take("false")) {
      found.kind = Json::boolean;
    } else if (!take("null")) {
      size_t end = source.find_first_not_of("+-.0123456789eE", at);
      std::string digits = source.substr(at, end == std::string::npos ? end : end - at);
      char* rest = nullptr;
      found.kind = Json::number;
      found.value = std::strtod(digits.c_str(), &rest);
      if (digits.empty() || *rest) fail();
      at += digits.size();
    }
    return found;
  }

  uint32_t hex() {
    uint32_t code = 0;
    for (int i = 0; i < 4; i++) {
      size_t digit = at < source.size() ? std::string("0123456789abcdef").find(static_cast<char>(source[at] | 32)) : 16;
      if (digit > 15) fail();
      code = code * 16 + static_cast<uint32_t>(digit);
      at++;
    }
    return code;
  }

  std::string text() {
    if (!take("\"")) fail();
    std::string found;
    while (!take("\"")) {
      if (at >= source.size() || static_cast<unsigned char>(source[at]) < 32) fail();
      if (!take("\\")) {
        found += source[at++];
        continue;
      }
      static const std::string escapes = "\"\\/bfnrtu", meant = "\"\\/\b\f\n\r\t";
      size_t which = at < source.size() ? escapes.find(source[at]) : std::string::npos;
      if (which == std::string::npos) fail();
      at++;
      if (which < meant.size()) {
        found += meant[which];
        continue;
      }
      uint32_t code = hex();
      if (code >= 0xD800 && code < 0xDC00 && take("\\u")) code = 0x10000 + ((code - 0xD800) << 10) + ((hex() - 0xDC00) & 0x3FF);
      if (code >= 0xD800 && code < 0xE000) fail();
      if (code < 0x80) found += static_cast<char>(code);
      else {
        int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
        static const int lead[] = {0, 0xC0, 0xE0, 0xF0};
        found += static_cast<char>(lead[more] | (code >> (6 * more)));
        while (more--) found += static_cast<char>(0x80 | ((code >> (6 * more)) & 0x3F));
      }
    }
    return found;
  }
};
