#include "ledger.h"

#include <string.h>

static json_t *describe(const struct counters *counters)
{
	json_t *records = json_object(), *messages = json_object();

	for (int i = 0; i < DROP_RECORD_COUNT; i++)
		json_object_set_new(records, drop_record_name((enum drop_record)i),
				    json_integer((json_int_t)counters->records_dropped[i]));
	for (int i = 0; i < DROP_MESSAGE_COUNT; i++)
		json_object_set_new(messages, drop_message_name((enum drop_message)i),
				    json_integer((json_int_t)counters->messages_dropped[i]));
	return json_pack("{s{sI sI so} s{sI sI sI sI sI so}}", //
			 "records", "received", (json_int_t)counters->records_received, "opened",
			 (json_int_t)counters->records_opened, "dropped", records, //
			 "messages", "opened", (json_int_t)counters->messages_opened, "made",
			 (json_int_t)counters->messages_made, "copies",
			 (json_int_t)counters->messages_copies, "delivered",
			 (json_int_t)counters->messages_delivered, "consumed",
			 (json_int_t)counters->messages_consumed, "dropped", messages);
}

/* What of all was of one class. */
static void select_class(const struct counters *counters, enum wire_class class,
			 struct counters *of)
{
	const struct counters_classes *classes = &counters->classes;

	memset(of, 0, sizeof(*of));
	of->records_opened = classes->records_opened[class];
	memcpy(of->records_dropped, classes->records_dropped[class], sizeof(of->records_dropped));
	of->messages_opened = classes->messages_opened[class];
	of->messages_made = classes->messages_made[class];
	of->messages_copies = classes->messages_copies[class];
	of->messages_delivered = classes->messages_delivered[class];
	of->messages_consumed = classes->messages_consumed[class];
	memcpy(of->messages_dropped, classes->messages_dropped[class],
	       sizeof(of->messages_dropped));
	of->records_received = of->records_opened;
	for (int i = 0; i < DROP_RECORD_COUNT; i++)
		of->records_received += of->records_dropped[i];
}

json_t *ledger_describe(const struct counters *counters)
{
	json_t *ledger = describe(counters), *classes = json_object();

	for (int class = WIRE_CONTROL; class >= WIRE_BULK; class --) {
		struct counters of;

		select_class(counters, (enum wire_class) class, &of);
		json_object_set_new(classes, wire_class_name((enum wire_class) class),
				    describe(&of));
	}
	json_object_set_new(ledger, "classes", classes);
	return ledger;
}
