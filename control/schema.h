/*
 * Settings as tables: a line each says where in a struct a setting is, what is allowed, and what it
 * is where the file leaves it out. YAML is read by them.
 */
#ifndef VIADUCT_SCHEMA_H
#define VIADUCT_SCHEMA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <yaml.h>

enum schema_kind {
	SCHEMA_NUMBER,  // an int
	SCHEMA_CHOICE,  // an int by names
	SCHEMA_TEXT,    // a char array, its length from 1
	SCHEMA_LIST,    // an array and a uint32_t
	SCHEMA_SECTION, // a struct
};

struct schema_choice {
	const char *name; // NULL ends them
	int value;
};

struct schema {
	const char *key; // NULL ends a section
	enum schema_kind kind;
	size_t offset; // in its section
	size_t size;   // of the text with the NUL; of each of the list's entries
	int min;       // number
	int max;       // number; list's entries
	int otherwise; // number or choice where it is left out
	const struct schema_choice *choices;
	bool (*good)(const char *text); // NULL: all texts are
	const char *allowed;            // which ones are
	size_t count_offset;            // of the number of entries, in the list's section
	const struct schema *entries;   // one for all of a list's
	const struct schema *section;
	bool required;
	bool empty; // a list that may have no entries
	bool path;  // a text that names a file
	bool live;  // can be changed in a relay that runs, as can all below it
};

struct schema_document {
	yaml_document_t yaml;
	char *error;
	size_t error_size;
};

/*
 * Reads YAML into `values`, the struct of `section`; texts and lists that are left out stay as they
 * are. Returns 0 and a document to be closed, or -EINVAL with "LINE:COLUMN: what is wrong" in
 * `error` (`size` bytes, the document's until it is closed), or -ENOMEM with a text as well. Pure.
 */
int schema_read(struct schema_document *document, const uint8_t *text, size_t length,
		const struct schema *section, void *values, char *error, size_t size);
void schema_close(struct schema_document *document);

/* Where "section.key" is in the file, or NULL. */
const yaml_node_t *schema_find(struct schema_document *document, const char *path);

/* Says what is wrong at a node, on one line of text that is safe to show. Returns -EINVAL. */
int schema_complain(struct schema_document *document, const yaml_node_t *node, const char *format,
		    ...) __attribute__((format(printf, 3, 4)));

/* Calls `each` for every setting, by its "section.key", whose values differ; they come as text. */
void schema_compare(const struct schema *sections, const void *from, const void *to,
		    void (*each)(void *arg, const char *setting, const char *before,
				 const char *after, bool live),
		    void *arg);

#endif
