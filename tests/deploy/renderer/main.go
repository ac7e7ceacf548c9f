// A test renderer for one Helm chart: templates, includes, values files, .Files. It is not Helm: no subcharts, no hooks,
// no --set, no schema check. Used only where helm itself is not installed.
//
//	renderer CHART RELEASE NAMESPACE [VALUES.yaml ...]
package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig"
	"gopkg.in/yaml.v3"
)

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

type tree = map[string]interface{}

func read(path string) tree {
	text, err := os.ReadFile(path)
	check(err)
	found := tree{}
	check(yaml.Unmarshal(text, &found))
	return found
}

// merge lays b over a, key by key; null takes a key away.
func merge(a, b tree) tree {
	for key, value := range b {
		over, isTree := value.(tree)
		under, wasTree := a[key].(tree)
		switch {
		case value == nil:
			delete(a, key)
		case isTree && wasTree:
			a[key] = merge(under, over)
		default:
			a[key] = value
		}
	}
	return a
}

type files struct{ root string }

func (f files) Get(name string) string {
	text, err := os.ReadFile(filepath.Join(f.root, name))
	if err != nil {
		return ""
	}
	return string(text)
}

func (f files) Glob(pattern string) map[string][]byte {
	found := map[string][]byte{}
	paths, err := filepath.Glob(filepath.Join(f.root, pattern))
	check(err)
	for _, path := range paths {
		text, err := os.ReadFile(path)
		check(err)
		name, err := filepath.Rel(f.root, path)
		check(err)
		found[name] = text
	}
	return found
}

func toYaml(value interface{}) string {
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	check(encoder.Encode(value))
	return strings.TrimSuffix(out.String(), "\n")
}

func main() {
	root, release, namespace := os.Args[1], os.Args[2], os.Args[3]
	values := read(filepath.Join(root, "values.yaml"))
	for _, path := range os.Args[4:] {
		values = merge(values, read(path))
	}
	chart := read(filepath.Join(root, "Chart.yaml"))
	context := tree{
		"Values":  values,
		"Chart":   tree{"Name": chart["name"], "Version": chart["version"], "AppVersion": chart["appVersion"]},
		"Release": tree{"Name": release, "Namespace": namespace, "Service": "Helm", "IsInstall": true, "IsUpgrade": false},
		"Files":   files{root},
	}
	all := template.New("").Option("missingkey=zero")
	functions := sprig.TxtFuncMap()
	functions["include"] = func(name string, data interface{}) (string, error) {
		var out bytes.Buffer
		err := all.ExecuteTemplate(&out, name, data)
		return out.String(), err
	}
	functions["tpl"] = func(text string, data interface{}) (string, error) {
		var out bytes.Buffer
		one, err := template.Must(all.Clone()).New("tpl").Parse(text)
		if err != nil {
			return "", err
		}
		err = one.Execute(&out, data)
		return out.String(), err
	}
	functions["required"] = func(words string, value interface{}) (interface{}, error) {
		if value == nil || value == "" {
			return nil, fmt.Errorf("%s", words)
		}
		return value, nil
	}
	functions["toYaml"] = toYaml
	functions["lookup"] = func(...string) tree { return tree{} }
	all.Funcs(functions)
	paths, err := filepath.Glob(filepath.Join(root, "templates", "*"))
	check(err)
	sort.Strings(paths)
	for _, path := range paths {
		text, err := os.ReadFile(path)
		check(err)
		template.Must(all.New(filepath.Base(path)).Parse(string(text)))
	}
	for _, path := range paths {
		if filepath.Ext(path) != ".yaml" {
			continue
		}
		var out bytes.Buffer
		check(all.ExecuteTemplate(&out, filepath.Base(path), context))
		fmt.Printf("---\n# Source: %s\n%s\n", filepath.Base(path), strings.ReplaceAll(out.String(), "<no value>", ""))
	}
}
