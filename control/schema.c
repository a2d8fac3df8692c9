#include "schema.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_TEXT = 128, NAMES_TEXT = 512 };

int schema_complain(struct schema_document *document, const yaml_node_t *node, const char *format,
		    ...)
{
	va_list values;
	int length;

	length = snprintf(document->error, document->error_size,
			  "%zu:%zu: ", node->start_mark.line + 1, node->start_mark.column + 1);
	va_start(values, format);
	vsnprintf(document->error + length, document->error_size - (size_t)length, format, values);
	va_end(values);
	// the file's text may hold anything, and this goes to a terminal
	for (char *c = document->error; *c; c++) {
		if ((unsigned char)*c < ' ' || *c == 0x7f)
			*c = '?';
	}
	return -EINVAL;
}

static const char *scalar(const yaml_node_t *node)
{
	return (const char *)node->data.scalar.value;
}

/* Whether the node is text without a NUL in it. */
static bool is_text(const yaml_node_t *node)
{
	return node->type == YAML_SCALAR_NODE && strlen(scalar(node)) == node->data.scalar.length;
}

/* Whole decimal numbers as people write them. */
static bool is_number(const char *text, int *number)
{
	const char *digits = text + (*text == '-');
	char *end;
	long value;

	if (*digits < '0' || *digits > '9' || (*digits == '0' && digits[1]))
		return false;
	errno = 0;
	value = strtol(text, &end, 10);
	if (errno || *end || value < INT32_MIN || value > INT32_MAX)
		return false;
	*number = (int)value;
	return true;
}

static int read_number(struct schema_document *document, const struct schema *schema,
		       const yaml_node_t *node, const char *path, void *value)
{
	int number;

	if (!is_text(node) || !*scalar(node))
		return schema_complain(document, node, "%s: must be a whole number from %d to %d",
				       path, schema->min, schema->max);
	if (!is_number(scalar(node), &number) || number < schema->min || number > schema->max)
		return schema_complain(document, node,
				       "%s: %.40s is not allowed; a whole number from %d to %d",
				       path, scalar(node), schema->min, schema->max);
	memcpy(value, &number, sizeof(number));
	return 0;
}

static int read_text(struct schema_document *document, const struct schema *schema,
		     const yaml_node_t *node, const char *path, void *value)
{
	if (!is_text(node))
		return schema_complain(document, node, "%s: must be text", path);
	if (!*scalar(node))
		return schema_complain(document, node, "%s: must not be empty", path);
	if (node->data.scalar.length >= schema->size)
		return schema_complain(document, node, "%s: is too long; at most %zu bytes", path,
				       schema->size - 1);
	if (schema->good && !schema->good(scalar(node)))
		return schema_complain(document, node, "%s: %.40s is not allowed; %s", path,
				       scalar(node), schema->allowed);
	memcpy(value, scalar(node), node->data.scalar.length + 1);
	return 0;
}

/* Adds `name` to a list such as "a, b, c" in `text` of NAMES_TEXT bytes. */
static void enumerate(char *text, const char *name)
{
	size_t length = strlen(text);

	snprintf(text + length, NAMES_TEXT - length, "%s%s", length ? ", " : "", name);
}

static int read_choice(struct schema_document *document, const struct schema *schema,
		       const yaml_node_t *node, const char *path, void *value)
{
	char names[NAMES_TEXT] = "";

	for (const struct schema_choice *choice = schema->choices; choice->name; choice++) {
		if (is_text(node) && strcmp(scalar(node), choice->name) == 0) {
			memcpy(value, &choice->value, sizeof(choice->value));
			return 0;
		}
		enumerate(names, choice->name);
	}
	return schema_complain(document, node, "%s: %.40s is not allowed; one of %s", path,
			       is_text(node) ? scalar(node) : "this", names);
}

static int read_value(struct schema_document *document, const struct schema *schema,
		      const yaml_node_t *node, const char *path, char *values);

static int read_list(struct schema_document *document, const struct schema *schema,
		     const yaml_node_t *node, const char *path, char *values)
{
	uint32_t count = 0;
	int result = 0;

	if (node->type != YAML_SEQUENCE_NODE)
		return schema_complain(document, node, "%s: must be a list", path);
	for (const yaml_node_item_t *item = node->data.sequence.items.start;
	     item < node->data.sequence.items.top && !result; item++) {
		const yaml_node_t *entry = yaml_document_get_node(&document->yaml, *item);

		if (count == (uint32_t)schema->max)
			return schema_complain(document, entry, "%s: too many; at most %d", path,
					       schema->max);
		result = read_value(document, schema->entries, entry, path,
				    values + schema->offset + count++ * schema->size);
	}
	if (!result && !count && !schema->empty)
		return schema_complain(document, node, "%s: must not be empty", path);
	memcpy(values + schema->count_offset, &count, sizeof(count));
	return result;
}

/* The value of a mapping's key; with `twice` set if there is another one behind. */
static const yaml_node_t *find(struct schema_document *document, const yaml_node_t *mapping,
			       const char *key, const yaml_node_t **twice)
{
	const yaml_node_t *found = NULL;

	for (const yaml_node_pair_t *pair = mapping->data.mapping.pairs.start;
	     pair < mapping->data.mapping.pairs.top; pair++) {
		const yaml_node_t *name = yaml_document_get_node(&document->yaml, pair->key);

		if (!is_text(name) || strcmp(scalar(name), key) != 0)
			continue;
		if (found) {
			*twice = name;
			break;
		}
		found = yaml_document_get_node(&document->yaml, pair->value);
	}
	return found;
}

static int check_keys(struct schema_document *document, const struct schema *section,
		      const yaml_node_t *mapping, const char *path)
{
	char names[NAMES_TEXT] = "";

	for (const struct schema *schema = section; schema->key; schema++)
		enumerate(names, schema->key);
	for (const yaml_node_pair_t *pair = mapping->data.mapping.pairs.start;
	     pair < mapping->data.mapping.pairs.top; pair++) {
		const yaml_node_t *key = yaml_document_get_node(&document->yaml, pair->key);
		const struct schema *schema = section;

		while (schema->key && (!is_text(key) || strcmp(scalar(key), schema->key) != 0))
			schema++;
		if (!schema->key)
			return schema_complain(document, key, "%s%s%.40s: unknown; one of %s", path,
					       *path ? "." : "",
					       is_text(key) ? scalar(key) : "this", names);
	}
	return 0;
}

static void set_defaults(const struct schema *section, char *values)
{
	for (const struct schema *schema = section; schema->key; schema++) {
		if (schema->kind == SCHEMA_SECTION)
			set_defaults(schema->section, values + schema->offset);
		else if (schema->kind == SCHEMA_NUMBER || schema->kind == SCHEMA_CHOICE)
			memcpy(values + schema->offset, &schema->otherwise,
			       sizeof(schema->otherwise));
	}
}

static int read_section(struct schema_document *document, const struct schema *section,
			const yaml_node_t *node, const char *path, char *values)
{
	int result;

	if (node->type != YAML_MAPPING_NODE)
		return schema_complain(document, node, "%s: must be a section with settings in it",
				       *path ? path : "the file");
	set_defaults(section, values);
	result = check_keys(document, section, node, path);
	for (const struct schema *schema = section; schema->key && !result; schema++) {
		const yaml_node_t *twice = NULL;
		const yaml_node_t *value = find(document, node, schema->key, &twice);
		char name[PATH_TEXT];

		snprintf(name, sizeof(name), "%s%s%s", path, *path ? "." : "", schema->key);
		if (twice)
			result = schema_complain(document, twice, "%s: is there twice", name);
		else if (value)
			result = read_value(document, schema, value, name, values);
		else if (schema->required)
			result = schema_complain(document, node, "%s: is missing", name);
	}
	return result;
}

static int read_value(struct schema_document *document, const struct schema *schema,
		      const yaml_node_t *node, const char *path, char *values)
{
	char *value = values + schema->offset;

	switch (schema->kind) {
	case SCHEMA_NUMBER:
		return read_number(document, schema, node, path, value);
	case SCHEMA_CHOICE:
		return read_choice(document, schema, node, path, value);
	case SCHEMA_TEXT:
		return read_text(document, schema, node, path, value);
	case SCHEMA_LIST:
		return read_list(document, schema, node, path, values);
	default:
		return read_section(document, schema->section, node, path, value);
	}
}

const yaml_node_t *schema_find(struct schema_document *document, const char *path)
{
	const yaml_node_t *node = yaml_document_get_root_node(&document->yaml);
	const yaml_node_t *twice;
	char section[PATH_TEXT];
	const char *key = strchr(path, '.') + 1;

	snprintf(section, sizeof(section), "%.*s", (int)(key - 1 - path), path);
	node = find(document, node, section, &twice);
	return node ? find(document, node, key, &twice) : NULL;
}

/* An alias is one more way to a node. */
static bool has_aliases(const yaml_document_t *yaml)
{
	ptrdiff_t ways = 1;

	for (const yaml_node_t *node = yaml->nodes.start; node < yaml->nodes.top; node++) {
		if (node->type == YAML_SEQUENCE_NODE)
			ways += node->data.sequence.items.top - node->data.sequence.items.start;
		else if (node->type == YAML_MAPPING_NODE)
			ways += 2 * (node->data.mapping.pairs.top - node->data.mapping.pairs.start);
	}
	return ways > yaml->nodes.top - yaml->nodes.start;
}

/* Loads the one document that there must be; on success it is the caller's to close. */
static int load(struct schema_document *document, const uint8_t *text, size_t length)
{
	yaml_parser_t parser;
	yaml_document_t second;
	int result = -EINVAL;

	if (!yaml_parser_initialize(&parser)) {
		snprintf(document->error, document->error_size, "1:1: out of memory");
		return -ENOMEM;
	}
	yaml_parser_set_input_string(&parser, text, length);
	if (!yaml_parser_load(&parser, &document->yaml))
		goto bad_yaml;
	if (!yaml_document_get_root_node(&document->yaml)) {
		snprintf(document->error, document->error_size, "1:1: the file is empty");
		goto out;
	}
	if (!yaml_parser_load(&parser, &second))
		goto bad_second;
	if (yaml_document_get_root_node(&second))
		schema_complain(document, yaml_document_get_root_node(&second),
				"a second document");
	else if (has_aliases(&document->yaml))
		snprintf(document->error, document->error_size,
			 "1:1: aliases (*name) are not supported");
	else
		result = 0;
	yaml_document_delete(&second);
out:
	if (result)
		yaml_document_delete(&document->yaml);
	yaml_parser_delete(&parser);
	return result;
bad_second:
	yaml_document_delete(&document->yaml);
bad_yaml:
	snprintf(document->error, document->error_size, "%zu:%zu: this is not YAML: %s",
		 parser.problem_mark.line + 1, parser.problem_mark.column + 1,
		 parser.problem ? parser.problem : "out of memory");
	yaml_parser_delete(&parser);
	return result;
}

int schema_read(struct schema_document *document, const uint8_t *text, size_t length,
		const struct schema *section, void *values, char *error, size_t size)
{
	int result;

	*document = (struct schema_document){.error = error, .error_size = size};
	result = load(document, text, length);
	if (result)
		return result;
	result = read_section(document, section, yaml_document_get_root_node(&document->yaml), "",
			      values);
	if (result)
		schema_close(document);
	return result;
}

void schema_close(struct schema_document *document)
{
	yaml_document_delete(&document->yaml);
}

/* Writes a value as text. */
static void describe(FILE *out, const struct schema *schema, const char *values)
{
	const char *value = values + schema->offset;
	const struct schema_choice *choice = schema->choices;
	uint32_t count;
	int number;

	switch (schema->kind) {
	case SCHEMA_TEXT:
		fputs(value, out);
		break;
	case SCHEMA_LIST:
		memcpy(&count, values + schema->count_offset, sizeof(count));
		for (uint32_t i = 0; i < count; i++) {
			fputs(i ? ", " : "", out);
			describe(out, schema->entries, value + i * schema->size);
		}
		break;
	case SCHEMA_SECTION:
		for (const struct schema *each = schema->section; each->key; each++) {
			fprintf(out, "%s%s: ", each == schema->section ? "" : " ", each->key);
			describe(out, each, value);
		}
		break;
	default:
		memcpy(&number, value, sizeof(number));
		while (choice && choice->name && choice->value != number)
			choice++;
		if (choice && choice->name)
			fputs(choice->name, out);
		else
			fprintf(out, "%d", number);
	}
}

static char *description(const struct schema *schema, const char *values)
{
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	if (!out)
		return NULL;
	describe(out, schema, values);
	fclose(out);
	return text;
}

void schema_compare(const struct schema *sections, const void *from, const void *to,
		    void (*each)(void *arg, const char *setting, const char *before,
				 const char *after, bool live),
		    void *arg)
{
	for (const struct schema *section = sections; section->key; section++) {
		const char *old = (const char *)from + section->offset;
		const char *new = (const char *)to + section->offset;

		for (const struct schema *schema = section->section; schema->key; schema++) {
			char *before = description(schema, old), *after = description(schema, new);
			char path[PATH_TEXT];

			snprintf(path, sizeof(path), "%s.%s", section->key, schema->key);
			if (!before || !after || strcmp(before, after) != 0)
				each(arg, path, before ? before : "?", after ? after : "?",
				     section->live || schema->live);
			free(before);
			free(after);
		}
	}
}
