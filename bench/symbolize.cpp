// A program full of templates and inlined functions, for bench/symbolize.py to build in several ways.
#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <numeric>
#include <regex>
#include <sstream>
#include <string>
#include <unordered_map>
#include <variant>
#include <vector>

namespace shop
{

struct Item {
	std::string name;
	double price;
	int count;
};

template <class Key, class Value> class Index
{
	std::unordered_map<Key, std::vector<Value>> found;

      public:
	void add(const Key &key, Value value)
	{
		found[key].push_back(std::move(value));
	}
	template <class Visit> void each(Visit visit) const
	{
		for (const auto &[key, values] : found)
			for (const auto &value : values)
				visit(key, value);
	}
};

template <int N> struct Matrix {
	double cells[N][N] = {};
	Matrix operator*(const Matrix &other) const
	{
		Matrix product;
		for (int i = 0; i < N; i++)
			for (int j = 0; j < N; j++)
				for (int k = 0; k < N; k++)
					product.cells[i][j] += cells[i][k] * other.cells[k][j];
		return product;
	}
	double trace() const
	{
		double sum = 0;
		for (int i = 0; i < N; i++)
			sum += cells[i][i];
		return sum;
	}
};

using Token = std::variant<int, double, std::string>;

struct Describe {
	std::string operator()(int value) const
	{
		return "int " + std::to_string(value);
	}
	std::string operator()(double value) const
	{
		return "double " + std::to_string(value);
	}
	std::string operator()(const std::string &value) const
	{
		return "string " + value;
	}
};

static std::vector<Token> tokens(const std::string &text)
{
	static const std::regex word("([0-9]+\\.[0-9]+)|([0-9]+)|([a-z]+)");
	std::vector<Token> result;
	for (std::sregex_iterator at(text.begin(), text.end(), word), end; at != end; ++at) {
		if ((*at)[1].matched)
			result.emplace_back(std::stod((*at)[1]));
		else if ((*at)[2].matched)
			result.emplace_back(std::stoi((*at)[2]));
		else
			result.emplace_back((*at)[3].str());
	}
	return result;
}

static double value_of(std::vector<Item> items)
{
	std::sort(items.begin(), items.end(), [](const Item &a, const Item &b) { return a.price < b.price; });
	return std::accumulate(items.begin(), items.end(), 0.0,
			       [](double sum, const Item &item) { return sum + item.price * item.count; });
}

template <int N> double power(double start)
{
	Matrix<N> matrix;
	for (int i = 0; i < N; i++)
		matrix.cells[i][(i + 1) % N] = matrix.cells[i][i] = start;
	return (matrix * matrix * matrix).trace();
}

} // namespace shop

int main(int count, char **given)
{
	std::ostringstream out;
	shop::Index<std::string, int> index;
	std::map<int, std::shared_ptr<std::function<double(double)>>> functions;
	std::vector<shop::Item> items;
	for (int i = 0; i < count; i++) {
		index.add(given[i], i);
		items.push_back({given[i], i * 1.5, i});
		for (const auto &token : shop::tokens(given[i]))
			out << std::visit(shop::Describe{}, token) << '\n';
		functions[i] =
		    std::make_shared<std::function<double(double)>>([i](double x) { return x * i; });
	}
	index.each([&](const std::string &name, int value) { out << name << value; });
	double sum =
	    shop::value_of(items) + shop::power<3>(count) + shop::power<4>(count) + shop::power<7>(count);
	for (const auto &[number, function] : functions)
		sum += (*function)(number);
	out << sum;
	return out.str().size() & 1;
}
