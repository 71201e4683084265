// Busy on all CPUs with what servers do: JSON, regular expressions, sorting, compression, maps, and garbage collection.
package main

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"regexp"
	"runtime"
	"sort"
	"strings"
	"text/template"
)

type order struct {
	Id    int
	Name  string
	Lines []line
	Tags  map[string]string
}

type line struct {
	Item  string
	Price float64
}

var pattern = regexp.MustCompile(`(\w+)-(\d+)@([a-z]+)\.example`)
var page = template.Must(template.New("p").Parse(`{{range .Lines}}<li>{{.Item | html}}: {{printf "%.2f" .Price}}</li>{{end}}`))

func makeOrder(n int) order {
	o := order{Id: n, Name: fmt.Sprintf("customer-%d@shop.example", n), Tags: map[string]string{}}
	for i := 0; i < 40; i++ {
		o.Lines = append(o.Lines, line{fmt.Sprintf("item %d of %d", i*7919%101, n), float64(i*n%997) / 7})
		o.Tags[fmt.Sprint("k", i)] = strings.Repeat("v", i%13)
	}
	return o
}

func serve(n int) int {
	o := makeOrder(n)
	text, _ := json.Marshal(o)
	var back order
	_ = json.Unmarshal(text, &back)
	sort.Slice(back.Lines, func(a, b int) bool { return back.Lines[a].Item < back.Lines[b].Item })
	var html bytes.Buffer
	_ = page.Execute(&html, back)
	found := pattern.FindAllStringSubmatch(strings.Repeat(o.Name+" ", 20), -1)
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, _ = z.Write(html.Bytes())
	_ = z.Close()
	sum := sha256.Sum256(packed.Bytes())
	return len(found) + int(sum[0])
}

func main() {
	for cpu := 0; cpu < runtime.NumCPU(); cpu++ {
		go func(n int) {
			for ; ; n++ {
				serve(n)
			}
		}(cpu * 1000000)
	}
	select {}
}
