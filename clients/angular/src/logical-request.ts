import { HttpContext, HttpContextToken, HttpParams, HttpRequest } from '@angular/common/http';
import { newKey } from 'flask-idempotency';

/** What happened on the way to the answer, for whoever must judge it. */
export interface Course {
  /** Whether an earlier attempt ended without an answer, or with one that asks to try again. */
  inDoubt: boolean;
}

export const COURSE = new HttpContextToken<Course>(() => ({ inDoubt: false }));

const keys = new WeakMap<HttpContext, WeakMap<HttpParams, string>>();

/**
 * The key of the logical request that this is an attempt of.
 *
 * A `retry` around `http.post()` sends the request through all interceptors again, and one that stands before ours may
 * have cloned it. What stays itself through all that is the context and the params: Angular makes new ones for each
 * request that was given none. Both are asked, since a caller may share a context among requests.
 */
export function keyOf(request: HttpRequest<unknown>): string {
  const ofContext = keys.get(request.context) ?? new WeakMap<HttpParams, string>();
  const key = ofContext.get(request.params) ?? newKey();
  keys.set(request.context, ofContext.set(request.params, key));
  return key;
}
